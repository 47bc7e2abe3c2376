#!/usr/bin/env python3
"""Checks of modelpoold with OpenAI's own Python client.

    openai_check.py CHECK... [KEY]      KEY: under that lease; without it as a job's own program
"""
import sys

import openai

CHECKS = [word for word in sys.argv[1:] if not word.startswith("mp1.")]
KEY = sys.argv[len(CHECKS) + 1:]
client = (openai.OpenAI(base_url="http://127.0.0.1:811/v1", api_key=KEY[0], max_retries=0) if KEY
          else openai.OpenAI(max_retries=0))
MODEL = "small"
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]


def refused(kind, **fields):
    fields = dict({"model": MODEL, "messages": HELLO}, **fields)
    try:
        client.chat.completions.create(**fields)
    except kind as e:
        return e
    raise AssertionError(f"taken: {fields}")


def check_chat():
    r = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=12)
    assert r.choices[0].message.content and r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
    assert r._request_id == r.id


def check_completion():
    r = client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0,
                                  max_tokens=6)
    assert "Paris" in r.choices[0].text, r


def check_stream():
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0,
                                           max_tokens=12, seed=1)
    text, usage = "", None
    for chunk in client.chat.completions.create(
            model=MODEL, messages=HELLO, temperature=0, max_tokens=12, seed=1, stream=True,
            stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content and usage == whole.usage, (text, usage, whole)


def check_stop():
    fields = dict(model=MODEL, prompt="One, two, three,", temperature=0, max_tokens=24)
    free = client.completions.create(**fields).choices[0].text
    r = client.completions.create(**fields, stop=[free[5:8]])
    assert r.choices[0].finish_reason == "stop" and r.choices[0].text == free[:free.index(free[5:8])]


def check_models():
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def check_errors():
    assert refused(openai.NotFoundError, model="none").code == "model_not_found"
    assert refused(openai.BadRequestError, n=2).param == "n"
    assert refused(openai.BadRequestError, temperature=9).param == "temperature"
    assert refused(openai.BadRequestError, tools=[{"type": "function", "function": {"name": "f"}}])
    assert refused(openai.BadRequestError, max_tokens=99999).code == "context_length_exceeded"
    client.api_key = "mp1.0000000000000000." + "0" * 64
    assert refused(openai.AuthenticationError).code == "invalid_api_key"


def check_budget():
    client.completions.create(model=MODEL, prompt="a", max_tokens=100, extra_body={"ignore_eos": True})
    e = refused(openai.RateLimitError)
    assert e.code == "insufficient_quota" and "20 tokens" in e.message, e


def check_seed():
    fields = dict(model=MODEL, messages=HELLO, temperature=2, max_tokens=16)
    texts = [client.chat.completions.create(**fields, seed=seed).choices[0].message.content
             for seed in (7, 7, 8)]
    assert texts[0] == texts[1] and texts[0] != texts[2], texts


for check in CHECKS:
    globals()["check_" + check]()
