"""Many clients at once, and clients that go away."""

import asyncio
import json

import openai
import pytest


def question(index):
    return [{"role": "user", "content": f"Count from {index} to {index + 3}."}]


def test_64_streams_at_once_say_what_each_would_say_alone(async_client, client, model):
    def options(index):
        return {
            "model": model,
            "messages": question(index),
            "temperature": 0.8,
            "seed": index,
            "max_tokens": 4 + index % 13,
        }

    async def stream(index):
        chunks = await async_client.chat.completions.create(**options(index), stream=True)
        text, reason = "", None
        async for chunk in chunks:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        return text, reason

    async def all_at_once():
        return await asyncio.gather(*(stream(index) for index in range(64)))

    answers = asyncio.run(all_at_once())
    assert all(reason in ("stop", "length") for _, reason in answers)
    for index in range(0, 64, 8):
        alone = client.chat.completions.create(**options(index))
        assert answers[index][0] == alone.choices[0].message.content


def test_64_whole_answers_at_once(async_client, model):
    async def ask(index):
        return await async_client.chat.completions.create(
            model=model, messages=question(index), max_tokens=8, extra_body={"ignore_eos": True}
        )

    async def all_at_once():
        return await asyncio.gather(*(ask(index) for index in range(64)))

    answers = asyncio.run(all_at_once())
    assert [answer.usage.completion_tokens for answer in answers] == [8] * 64
    assert len({answer.id for answer in answers}) == 64


def endless(model, **options):
    """A request that is answered for longer than any test waits for it."""
    messages = [{"role": "user", "content": "Tell me everything."}]
    return {"model": model, "messages": messages, "ignore_eos": True, "max_tokens": 900, **options}


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_its_request(server, model, stream):
    server.wait_idle()
    connections = [
        server.send_raw("/v1/chat/completions", endless(model, stream=stream)) for _ in range(4)
    ]
    if stream:
        for connection in connections:
            assert connection.recv(64).startswith(b"HTTP/1.1 200")
    finished = server.metric("brigade_requests_finished_total")
    for connection in connections:
        connection.close()
    server.wait_idle()
    assert server.metric("brigade_requests_finished_total") >= finished


def test_a_stream_that_is_closed_ends_its_request(server, client, model):
    server.wait_idle()
    options = endless(model)
    ignore_eos = {"ignore_eos": options.pop("ignore_eos")}
    with client.chat.completions.create(**options, stream=True, extra_body=ignore_eos) as stream:
        next(iter(stream))
    server.wait_idle()


def test_a_client_that_does_not_read_holds_up_nobody(server, model, ask):
    connections = [
        server.send_raw("/v1/chat/completions", endless(model, stream=True)) for _ in range(8)
    ]
    assert ask(max_tokens=8).usage.completion_tokens > 0
    for connection in connections:
        connection.close()
    server.wait_idle()


def test_a_full_queue_says_so(server, async_client, client, model):
    server.wait_idle()
    options = endless(model, n=128, stream=True)
    extra = {"ignore_eos": options.pop("ignore_eos")}

    async def fill():
        asks = [
            asyncio.create_task(async_client.chat.completions.create(**options, extra_body=extra))
            for _ in range(32)
        ]
        # Those that have a place wait for their first token; the first to be refused is refused at once.
        await asyncio.wait(asks, return_when=asyncio.FIRST_EXCEPTION)
        refusals = [ask.exception() for ask in asks if ask.done() and ask.exception()]
        for ask in asks:
            ask.cancel()
        await asyncio.gather(*asks, return_exceptions=True)
        await async_client.close()
        return refusals

    refusals = asyncio.run(fill())
    assert refusals
    for refusal in refusals:
        assert isinstance(refusal, openai.RateLimitError)
        assert int(refusal.response.headers["retry-after"]) >= 1
        assert refusal.response.headers["x-should-retry"] == "true"
        assert refusal.type == "rate_limit_error"
    server.wait_idle()
    assert client.models.list().data


def test_bad_requests_leave_a_neighbour_alone(server, client, model):
    options = {"model": model, "messages": question(1), "temperature": 0, "max_tokens": 64}
    extra = {"ignore_eos": True}
    alone = client.chat.completions.create(**options, extra_body=extra).choices[0].message.content
    stream = client.chat.completions.create(**options, extra_body=extra, stream=True)
    text = ""
    bad = [b"{", b"null", b'{"messages": 5}', json.dumps({"prompt": [[-1]]}).encode(), b"\x00" * 100]
    for number, chunk in enumerate(stream):
        text += chunk.choices[0].delta.content or ""
        status, _, _ = server.request("/v1/chat/completions", bad[number % len(bad)])
        assert status == 400
    assert text == alone
