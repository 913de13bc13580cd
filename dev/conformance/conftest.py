"""Where the server is, and the clients to talk to it with."""

import json
import pathlib
import socket
import time
import urllib.parse
import urllib.request

import openai
import pytest

from program import Program

TIMEOUT_S = 120


def pytest_addoption(parser):
    parser.addoption("--base-url", default="http://127.0.0.1:8000", help="of the running server")
    parser.addoption("--binary", default=None, help="start this program instead, and stop it at the end")
    parser.addoption("--model", default=None, help="default: the first that the server lists")
    parser.addoption("--api-key", default="none", help="for a server that wants one")


class Server:
    """A running server, for what the official client has no call for."""

    def __init__(self, base_url, api_key):
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        parts = urllib.parse.urlsplit(self.base_url)
        self.address = (parts.hostname, parts.port or 80)

    def request(self, path, body=None, headers=None):
        """Status, headers and body of one request; a body makes it a POST."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.api_key}", **(headers or {})}
        request = urllib.request.Request(self.base_url + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, path, body=None):
        status, _, answer = self.request(path, body)
        assert status == 200, answer
        return json.loads(answer)

    def send_raw(self, path, body):
        """A connection on which a POST was sent and nothing was read."""
        body = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.address[0]}\r\n"
            f"authorization: Bearer {self.api_key}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection = socket.create_connection(self.address, timeout=TIMEOUT_S)
        connection.sendall(head.encode() + body)
        return connection

    def metric(self, name):
        """The sum over all labels of a metric."""
        _, _, text = self.request("/metrics")
        lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
        values = [line.rsplit(" ", 1)[1] for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert values, f"/metrics has no {name}"
        return sum(map(float, values))

    def wait_idle(self):
        """Returns once no request runs or waits; fails if that takes long."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            busy = self.metric("brigade_requests_running") + self.metric("brigade_requests_waiting")
            if busy == 0:
                return
            time.sleep(0.05)
        pytest.fail(f"{busy} requests are still under way")


@pytest.fixture(scope="session")
def server(request):
    binary, api_key = map(request.config.getoption, ("--binary", "--api-key"))
    if binary is None:
        yield Server(request.config.getoption("--base-url"), api_key)
        return
    with Program(binary) as program:
        yield Server(program.base_url, api_key)
        assert program.stop() == 0, "the server was told to stop and did not end well"


@pytest.fixture()
def start(request):
    """Starts a server of its own for a test, with flags."""
    binary = request.config.getoption("--binary")
    if binary is None:
        pytest.skip("needs --binary, to start servers of its own")
    programs = []

    def start(*flags):
        programs.append(Program(pathlib.Path(binary), *flags))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


@pytest.fixture(scope="session")
def client(server):
    return openai.OpenAI(
        base_url=server.base_url + "/v1", api_key=server.api_key, timeout=TIMEOUT_S, max_retries=0
    )


@pytest.fixture()
def async_client(server):
    """A client for one test, because it is bound to one event loop."""
    return openai.AsyncOpenAI(
        base_url=server.base_url + "/v1", api_key=server.api_key, timeout=TIMEOUT_S, max_retries=0
    )


@pytest.fixture(scope="session")
def model(request, client):
    return request.config.getoption("--model") or client.models.list().data[0].id


@pytest.fixture()
def ask(client, model):
    """Asks the model a question in a chat."""

    def ask(text="Name three colours.", **options):
        messages = [{"role": "user", "content": text}]
        options = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0, **options}
        return client.chat.completions.create(**options)

    return ask


@pytest.fixture()
def complete(client, model):
    """Has the model go on with a text."""

    def complete(prompt="The capital of France is", **options):
        options = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, **options}
        return client.completions.create(**options)

    return complete
