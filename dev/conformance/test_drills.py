"""Shutdown, overload, load and what is left in memory of it, each with a server of its own."""

import concurrent.futures
import json
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest

WORDS = "the sun rises over a quiet harbour while boats wait for wind and gulls call from the old stone wall".split()


def client_of(program):
    return openai.OpenAI(base_url=program.base_url + "/v1", api_key="none", max_retries=0, timeout=120)


def status_of(program, path, body=None):
    try:
        with urllib.request.urlopen(program.base_url + path, data=body, timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def long_answer(client, tokens):
    return client.completions.create(
        model="smollm2",
        prompt="Once upon a time",
        max_tokens=tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )


def test_a_stream_under_way_finishes_while_new_requests_are_turned_away(start):
    program = start("--drain-timeout-s", "60")
    client = client_of(program)
    stream = iter(long_answer(client, 300))
    next(stream)
    program.terminate()
    while status_of(program, "/ready") != 503:
        pass
    with pytest.raises(openai.InternalServerError) as caught:
        long_answer(client, 1)
    assert caught.value.status_code == 503
    reasons = [choice.finish_reason for chunk in stream for choice in chunk.choices]
    assert reasons[-1] == "length"
    assert program.wait() == 0


def test_a_stream_that_outlasts_the_limit_ends_with_an_error(start):
    program = start("--drain-timeout-s", "0.5")
    stream = iter(long_answer(client_of(program), 8000))
    next(stream)
    program.terminate()
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert "shut down" in str(caught.value)
    assert program.wait() == 0


def test_a_full_queue_says_when_to_come_back(start):
    program = start("--running-max", "2", "--waiting-max", "2")
    client = client_of(program)
    streams = [iter(long_answer(client, 2000)) for _ in range(2)]
    for stream in streams:
        next(stream)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(lambda: next(iter(long_answer(client, 2000)))) for _ in range(2)]
        refused = None
        while refused is None:
            try:
                # Whoever is early waits in the queue itself; it is full once somebody is refused.
                client.completions.create(model="smollm2", prompt="x", max_tokens=1, timeout=0.3)
            except openai.RateLimitError as error:
                refused = error
            except openai.APITimeoutError:
                pass
        assert int(refused.response.headers["retry-after"]) >= 1
        # The long answers have served their purpose; what becomes of them is no part of this test.
        program.kill()
        concurrent.futures.wait(waiting)


def test_64_streams_of_mixed_lengths_get_what_they_would_get_alone(start):
    """With a KV cache too small for all of them, so that some wait and some are computed again."""
    program = start("--kv-cache-bytes", "100MB")
    client = client_of(program)

    def options(index):
        words = [WORDS[(index * 7 + place * 5) % len(WORDS)] for place in range(3 + index * 37 % 300)]
        return {
            "model": "smollm2",
            "prompt": " ".join(words),
            "max_tokens": 5 + index * 29 % 90,
            "temperature": 0 if index % 2 else 0.8,
            "seed": index,
            "extra_body": {"ignore_eos": True},
        }

    def stream(index):
        text, usage = "", None
        chunks = client.completions.create(
            **options(index), stream=True, stream_options={"include_usage": True}
        )
        for chunk in chunks:
            usage = chunk.usage or usage
            text += "".join(choice.text for choice in chunk.choices)
        return text, usage

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(stream, range(64)))
    for index, (text, usage) in enumerate(answers):
        assert usage.completion_tokens == options(index)["max_tokens"]
        if index % 3 == 0:
            assert client.completions.create(**options(index)).choices[0].text == text
    assert program.stop() == 0


MALFORMED = [
    b"", b"{", b"[]", b"null", b"7", b'"text"', b"{}", b"\xff\xfe", b"{\"model\":}", b"{'model':'smollm2'}",
    b'{"model":"smollm2"}', b'{"model":"nobody","messages":[{"role":"user","content":"x"}]}',
    b'{"model":"smollm2","messages":[]}', b'{"model":"smollm2","messages":"hi"}',
    b'{"model":"smollm2","messages":[{"role":"user"}]}', b'{"model":"smollm2","messages":[{"content":"x"}]}',
    b'{"model":"smollm2","messages":[7]}', b'{"model":"smollm2","messages":[{"role":"user","content":7}]}',
    b'{"model":"smollm2","messages":[{"role":"user","content":[{"type":"image_url"}]}]}',
    b"[" * 5000, b'{"a":' * 5000,
]  # fmt: skip
WRONG_VALUES = {
    "temperature": [-1, "hot", [], 1e9],
    "top_p": [-0.1, 1.1, "x"],
    "top_k": [-2, 0.5, "x"],
    "min_p": [-1, 2],
    "typical_p": [-1, 2],
    "n": [0, -1, 1e9, "x"],
    "max_tokens": [0, -1, 1.5, 10**9, "x"],
    "min_tokens": [-1, "x"],
    "presence_penalty": [-3, 3, "x"],
    "frequency_penalty": [-3, 3, "x"],
    "repetition_penalty": [0, -1, "x"],
    "logit_bias": [[], {"x": 1}, {"1": "x"}, {"1": 1000}, {"99999999": 1}],
    "seed": ["x", 1.5, []],
    "stop": [7, [7], [""], ["x"] * 100],
    "stop_token_ids": [7, ["x"], [-1]],
    "logprobs": ["x", 7],
    "top_logprobs": [-1, 21, "x"],
    "stream": ["x", 7],
    "stream_options": [7, "x"],
    "response_format": [{"type": "json_object"}, 7],
    "priority": ["x", 1.5],
    "echo": ["x"],
    "tools": [7, "x", [7]],
    "tool_choice": ["required", 7],
    "chat_template": ["{{ 1 }}"],
    "chat_template_kwargs": [7, "x"],
    "ignore_eos": ["x"],
    "add_generation_prompt": ["x"],
    "max_completion_tokens": [0, -1, "x"],
    "continue_final_message": ["x"],
    "include_stop_str_in_output": ["x"],
    "skip_special_tokens": ["x", 7],
    "documents": [7],
    "user": [7],
}


def test_malformed_requests_leave_their_neighbours_alone(start):
    program = start()
    client = client_of(program)
    alone = "".join(chunk.choices[0].text for chunk in long_answer(client, 200))
    bodies = list(MALFORMED)
    for field, values in WRONG_VALUES.items():
        for value in values:
            body = {"model": "smollm2", "messages": [{"role": "user", "content": "x"}], field: value}
            bodies.append(json.dumps({**body, "max_tokens": body.get("max_tokens", 1)}).encode())
    assert len(bodies) >= 100
    stop = threading.Event()
    neighbours = []

    def neighbour():
        while not stop.is_set():
            neighbours.append("".join(chunk.choices[0].text for chunk in long_answer(client, 200)))

    threads = [threading.Thread(target=neighbour) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = {body: status_of(program, "/v1/chat/completions", body) for body in bodies}
    stop.set()
    for thread in threads:
        thread.join()
    # A field that a chat does not have is nobody's mistake and is answered; everything else is refused as the sender's.
    answered = [body for body, status in statuses.items() if status == 200]
    assert all(b'"echo"' in body or b'"user"' in body for body in answered), answered
    assert all(status in (200, 400, 404) for status in statuses.values()), statuses
    assert set(neighbours) == {alone}
    assert program.stop() == 0


def test_what_a_server_was_told_last_is_replayed(start, request, tmp_path, monkeypatch):
    """Long after the start, from the little that it keeps in memory."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = start("--journal-memory-bytes-max", "8KiB")
    client = client_of(program)
    list(long_answer(client, 400))
    stream = iter(long_answer(client, 2000))
    for _ in range(10):
        next(stream)
    program.process.send_signal(signal.SIGUSR1)
    journal = tmp_path / f"brigade-{program.process.pid}.journal"
    shown, deadline = "", time.monotonic() + 60
    # It may still be being written.
    while "the journal has no end" not in shown:
        assert time.monotonic() < deadline, shown
        if journal.exists():
            command = [request.config.getoption("--binary"), "replay", str(journal)]
            shown = subprocess.run(command, capture_output=True, text=True).stdout
        time.sleep(0.1)
    assert shown.startswith("the journal begins in the middle, at "), shown
    assert "every plan is the one that was recorded" in shown, shown
    stream.close()
    assert program.stop() == 0
