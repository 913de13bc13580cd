"""The commands for people: `generate` and `chat`, as a terminal sees them."""

import os
import pty
import re
import select
import subprocess
import time

import pytest

TIMEOUT_S = 60


@pytest.fixture()
def binary(request):
    binary = request.config.getoption("--binary")
    if binary is None:
        pytest.skip("needs --binary")
    return binary


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *command):
        self.process_id, self.file = pty.fork()
        if self.process_id == 0:
            os.environ["TERM"] = "xterm"
            os.execvp(command[0], command)
        self.seen = ""

    def type(self, text):
        os.write(self.file, text.encode())

    def read_until(self, pattern):
        """What appears up to and with a pattern."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = re.search(pattern, self.seen)
            if found:
                text, self.seen = self.seen[: found.end()], self.seen[found.end() :]
                return text
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.file], [], [], 1)[0]:
                self.seen += os.read(self.file, 4096).decode(errors="replace")

    def exit_status(self):
        # A terminal that nobody reads holds its program up.
        try:
            while os.read(self.file, 4096):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])


def test_generate_continues_a_text_on_a_server_and_by_itself(start, binary):
    program = start()
    options = ["generate", "The capital of France is", "--max-tokens", "6", "--temperature", "0"]
    on_server = subprocess.run(
        [binary, *options, "--url", program.base_url], capture_output=True, text=True, check=True
    )
    program.kill()
    # Nothing listens on port 1, so that the command loads the model itself.
    by_itself = subprocess.run(
        [binary, *options, "--port", "1"], capture_output=True, text=True, check=True
    )
    assert on_server.stdout.strip()
    assert by_itself.stdout == on_server.stdout


def test_generate_says_what_is_wrong(binary):
    for arguments, words in [
        (["--model", "/no/such/file.gguf"], "/no/such/file.gguf"),
        (["--url", "http://127.0.0.1:1"], "127.0.0.1:1"),
    ]:
        command = [binary, "generate", "x", "--port", "1", *arguments]
        outcome = subprocess.run(command, capture_output=True, text=True)
        assert outcome.returncode != 0
        assert words in outcome.stderr


def test_a_chat_streams_stops_at_control_c_and_goes_on(start, binary):
    program = start()
    terminal = Terminal(binary, "chat", "--url", program.base_url, "--temperature", "0")
    terminal.read_until("> ")
    terminal.type("Tell me a very long story about a robot.\r")
    # The line is echoed; some words of the answer follow it.
    terminal.read_until(r"robot\.")
    terminal.read_until(r"\w+ \w+ \w+ \w+")
    terminal.type("\x03")
    terminal.read_until("> ")
    terminal.type("/reset\r")
    terminal.read_until("starting over")
    terminal.type("/nonsense\r")
    terminal.read_until("there is no /nonsense")
    terminal.type("Say hello.\r")
    terminal.read_until(r"hello\.")
    terminal.read_until(r"\w+")
    terminal.read_until("> ")
    terminal.type("/quit\r")
    assert terminal.exit_status() == 0
    assert program.stop() == 0
