"""What clients see when something is wrong."""

import json

import openai
import pytest


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody/nothing", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody/nothing")


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("temperature", {"temperature": -1}),
        ("top_p", {"top_p": 1.5}),
        ("n", {"n": 0}),
        ("max_tokens", {"max_tokens": 0}),
        ("presence_penalty", {"presence_penalty": 3}),
        ("frequency_penalty", {"frequency_penalty": -3}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("logit_bias", {"logit_bias": {"one": 1}}),
        ("logit_bias", {"logit_bias": {"99999999": 1}}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"content": "x"}]}),
        ("temperature", {"extra_body": {"temperature": "hot"}}),
    ],
)
def test_a_bad_value_is_named(ask, field, options):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(**options)
    assert caught.value.param == field
    assert caught.value.type == "invalid_request_error"
    assert field in caught.value.message


def test_a_prompt_that_is_too_long(complete, server):
    context = server.json("/v1/models")["data"][0]["max_model_len"]
    with pytest.raises(openai.BadRequestError) as caught:
        complete([5] * (context + 7))
    assert caught.value.code == "context_length_exceeded"
    assert str(context) in caught.value.message
    assert str(context + 7) in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        complete([5] * 10, max_tokens=context)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/v1/chat/completions", b"\xff\xfe", 400),
        ("/v1/completions", b'{"prompt": "x"} trailing', 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/models", b"{}", 405),
        ("/v1/chat/completions", None, 405),
    ],
)
def test_every_error_is_json(server, path, body, status):
    answered, headers, text = server.request(path, body)
    assert answered == status
    assert headers["content-type"].startswith("application/json")
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


def test_a_body_that_is_too_large(server):
    status, _, text = server.request("/v1/completions", b'{"prompt": "' + b"x" * (48 << 20) + b'"}')
    assert status == 413
    assert json.loads(text)["error"]["message"]


def test_an_unusual_content_type_is_no_error(server, model):
    body = {"model": model, "prompt": "x", "max_tokens": 1}
    status, _, _ = server.request("/v1/completions", body, {"content-type": "text/plain"})
    assert status == 200


def test_an_error_does_not_end_a_connection_s_luck(ask):
    with pytest.raises(openai.BadRequestError):
        ask(temperature=-1)
    assert ask(max_tokens=1).usage.completion_tokens == 1
