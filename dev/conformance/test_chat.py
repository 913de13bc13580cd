"""Chat completions, whole and streamed."""

import math

import pytest


def text_of(chunks, index=0):
    deltas = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in deltas)


def test_a_whole_answer(ask):
    answer = ask()
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 0
    assert 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_greedy_answers_are_the_same_every_time(ask):
    assert ask().choices[0].message.content == ask().choices[0].message.content


def test_a_seed_decides_an_answer(ask):
    def sample(seed):
        return ask(temperature=1.5, seed=seed, max_tokens=32).choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_without_a_seed_answers_differ(ask):
    answers = {ask(temperature=1.5, max_tokens=32).choices[0].message.content for _ in range(5)}
    assert len(answers) > 1


def test_a_stream_says_the_same_as_a_whole_answer(ask):
    chunks = list(ask(stream=True))
    assert text_of(chunks) == ask().choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] in ("stop", "length")
    assert set(reasons[:-1]) == {None}
    for field in ("id", "created", "model", "object"):
        assert len({getattr(chunk, field) for chunk in chunks}) == 1
    assert chunks[0].object == "chat.completion.chunk"


def test_usage_comes_only_when_asked_for(ask):
    assert all(chunk.choices and chunk.usage is None for chunk in ask(stream=True))
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == ask().usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_usage_can_come_with_every_chunk(ask):
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk.usage.completion_tokens for chunk in ask(stream=True, stream_options=options)]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_length_is_kept(ask):
    answer = ask("Tell me a long story.", max_tokens=5, extra_body={"ignore_eos": True})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    answer = ask("Tell me a long story.", max_tokens=None, max_completion_tokens=3)
    assert answer.usage.completion_tokens <= 3
    answer = ask("Hi", max_tokens=40, extra_body={"min_tokens": 40})
    assert answer.usage.completion_tokens == 40


def test_a_stop_string_ends_an_answer_and_is_not_part_of_it(ask):
    whole = ask("Count from one to ten.", max_tokens=32).choices[0].message.content
    # In the middle of the text, so that it is likely to lie across tokens.
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    expected = whole[: whole.index(stop)]
    stopped = ask("Count from one to ten.", max_tokens=32, stop=stop)
    assert stopped.choices[0].message.content == expected
    assert stopped.choices[0].finish_reason == "stop"
    streamed = list(ask("Count from one to ten.", max_tokens=32, stop=[stop, "unlikely"], stream=True))
    assert text_of(streamed) == expected
    assert streamed[-1].choices[0].finish_reason == "stop"
    kept = ask(
        "Count from one to ten.",
        max_tokens=32,
        stop=stop,
        extra_body={"include_stop_str_in_output": True},
    )
    assert kept.choices[0].message.content == expected + stop


def test_several_answers_at_once(ask):
    answer = ask(n=4, temperature=1.5, seed=3, max_tokens=16)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1
    chunks = list(ask(n=4, temperature=1.5, seed=3, max_tokens=16, stream=True))
    assert [text_of(chunks, index) for index in range(4)] == texts
    assert ask(temperature=1.5, seed=3, max_tokens=16).choices[0].message.content == texts[0]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(ask, stream):
    answer = ask(logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        choices = [choice for chunk in answer for choice in chunk.choices]
        content = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
        text = "".join(choice.delta.content or "" for choice in choices)
    else:
        content = answer.choices[0].logprobs.content
        text = answer.choices[0].message.content
        assert len(content) == answer.usage.completion_tokens
    joined = b"".join(bytes(token.bytes) for token in content).decode()
    assert joined.startswith(text)
    for token in content:
        assert token.logprob <= 0
        top = [alternative.logprob for alternative in token.top_logprobs]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        # Greedy takes the most likely one.
        assert math.isclose(top[0], token.logprob, abs_tol=1e-6)


def test_a_bias_forbids_and_forces(ask, server, model):
    first = server.json("/tokenize", {"model": model, "prompt": "zebra", "add_special_tokens": False})
    token = str(first["tokens"][0])
    forced = ask(logit_bias={token: 100}, max_tokens=3, extra_body={"return_token_ids": True})
    assert forced.choices[0].token_ids == [int(token)] * 3


def test_what_clients_send_and_nobody_needs_is_ignored(ask):
    answer = ask(
        user="u",
        stop=None,
        store=False,
        metadata={"a": "b"},
        service_tier="auto",
        parallel_tool_calls=True,
        extra_body={"never_heard_of": {"x": [1, 2]}},
    )
    assert answer.choices[0].message.content


def test_forms_of_messages(client, model):
    messages = [
        {"role": "system", "content": "You are brief.", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": "Well?"},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=4)
    assert answer.usage.completion_tokens > 0


def test_an_answer_begun_by_the_client_goes_on(client, model, server):
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    tokens = server.json("/tokenize", {"model": model, "messages": messages, **extra})["tokens"]
    text = server.json("/detokenize", {"model": model, "tokens": tokens})["prompt"]
    assert text.endswith("The capital of France is")
    answer = client.chat.completions.create(
        model=model, messages=messages, max_tokens=4, temperature=0, extra_body=extra
    )
    assert answer.usage.prompt_tokens == len(tokens)


def test_characters_are_never_split(ask):
    text = "Repeat this exactly: 🦀🎉 äöü 日本語 🧑‍🍳"
    chunks = list(ask(text, stream=True, max_tokens=48, temperature=1.2, seed=1))
    whole = ask(text, max_tokens=48, temperature=1.2, seed=1).choices[0].message.content
    assert text_of(chunks) == whole
