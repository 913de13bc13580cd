"""Legacy completions, the list of models, and the tokenizer."""

import pytest


def test_a_text_goes_on(complete):
    answer = complete()
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.choices[0].text
    assert complete(max_tokens=None).usage.completion_tokens <= 16


def test_tokens_do_as_well_as_text(complete, server, model):
    text = "The capital of France is"
    tokens = server.json("/tokenize", {"model": model, "prompt": text})["tokens"]
    by_text = complete(text)
    by_tokens = complete(tokens)
    assert by_tokens.choices[0].text == by_text.choices[0].text
    assert by_tokens.usage.prompt_tokens == len(tokens) == by_text.usage.prompt_tokens


def test_several_prompts_at_once(complete):
    prompts = ["One, two,", "The sky is", "Once upon a"]
    answer = complete(prompts, n=2)
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = [complete(prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in answer.choices][::2] == alone
    lists = [[10, 20, 30], [40, 50]]
    assert len(complete(lists).choices) == 2


def test_a_stream_says_the_same(complete):
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    whole = complete()
    assert text == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] in ("stop", "length")


def test_an_echo_comes_first(complete):
    prompt = "The capital of France is"
    text = complete(prompt).choices[0].text
    assert complete(prompt, echo=True).choices[0].text == prompt + text
    chunks = complete(prompt, echo=True, stream=True)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == prompt + text


def test_log_probabilities(complete):
    answer = complete(logprobs=2)
    choice = answer.choices[0]
    lists = choice.logprobs
    assert len(lists.tokens) == answer.usage.completion_tokens
    assert len(lists.token_logprobs) == len(lists.tokens) == len(lists.top_logprobs)
    assert all(logprob <= 0 for logprob in lists.token_logprobs)
    assert all(2 <= len(top) <= 3 for top in lists.top_logprobs)
    for token, offset in zip(lists.tokens, lists.text_offset):
        assert token.startswith("bytes:") or choice.text[offset:].startswith(token) or offset >= len(choice.text)


def test_a_text_s_own_probabilities(complete, server, model):
    prompt = "The capital of France is Paris."
    tokens = server.json("/tokenize", {"model": model, "prompt": prompt})["tokens"]
    answer = complete(prompt, echo=True, logprobs=1, max_tokens=0)
    lists = answer.choices[0].logprobs
    assert answer.choices[0].text == prompt
    assert answer.usage.completion_tokens == 0
    assert len(lists.tokens) == len(tokens)
    assert lists.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in lists.token_logprobs[1:])
    with_answer = complete(prompt, echo=True, logprobs=1, max_tokens=2)
    assert len(with_answer.choices[0].logprobs.tokens) == len(tokens) + with_answer.usage.completion_tokens


def test_ends_are_ignored_on_request(complete):
    answer = complete("The end.", max_tokens=64, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 64
    assert answer.choices[0].finish_reason == "length"


def test_strange_tokens_are_no_problem(complete):
    for start in range(0, 2000, 250):
        prompt = [(start * 7 + 13 * step) % 32000 for step in range(24)]
        answer = complete(prompt, max_tokens=4, temperature=2, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 4


def test_models_are_listed(client, model):
    names = [listed.id for listed in client.models.list()]
    assert model in names
    found = client.models.retrieve(model)
    assert found.id == model
    assert found.object == "model"


@pytest.mark.parametrize("text", ["Hello, world!", "  spaces  ", "日本語 🦀", "a\nb\tc"])
def test_text_survives_the_tokenizer(server, model, text):
    body = {"model": model, "prompt": text, "add_special_tokens": False, "return_token_strs": True}
    tokenized = server.json("/tokenize", body)
    assert tokenized["count"] == len(tokenized["tokens"]) == len(tokenized["token_strs"])
    assert tokenized["max_model_len"] > 0
    back = server.json("/detokenize", {"model": model, "tokens": tokenized["tokens"]})
    assert back["prompt"] == text


def test_the_tokenizer_in_tgi_s_form(server):
    spans = server.json("/tokenize", {"inputs": "Hello, world!", "add_special_tokens": False})
    assert [set(span) for span in spans] == [{"id", "text", "start", "stop"}] * len(spans)
    assert spans[0]["start"] == 0
    assert spans[-1]["stop"] == len("Hello, world!")


def test_operators_routes(server):
    assert server.json("/health")["status"] == "ok"
    assert server.json("/ready")["status"] == "ready"
    assert server.json("/version")["version"]
    assert server.metric("vllm:num_requests_running") >= 0
