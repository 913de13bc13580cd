"""The program under test as a process."""

import re
import signal
import subprocess
import threading

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class Program:
    """`brigade serve` on a free port, ready to answer."""

    def __init__(self, binary, *flags):
        command = [str(binary), "serve", "smollm2", "--port", "0", "--log-filter", "warn", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # A server that never says it is ready must not hold the tests up.
        watchdog = threading.Timer(START_TIMEOUT_S, self.process.kill)
        watchdog.start()
        try:
            self.base_url = self._address()
        finally:
            watchdog.cancel()

    def _address(self):
        for line in self.process.stdout:
            found = re.match(r"listening on (http://\S+)", line)
            if found:
                return found.group(1)
        raise AssertionError(f"the server ended before it was ready: {self.process.wait()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def terminate(self):
        """Asks the server to stop, as a supervisor does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        """The exit status, once the server is gone."""
        return self.process.wait(timeout=STOP_TIMEOUT_S)

    def stop(self):
        """Asks, and waits."""
        self.terminate()
        return self.wait()

    def kill(self):
        """Makes sure that the server is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
