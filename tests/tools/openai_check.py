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


def check_choices():
    fields = dict(model=MODEL, messages=HELLO, temperature=1.5, max_tokens=10, seed=3, n=3)
    whole = client.chat.completions.create(**fields)
    texts = [c.message.content for c in whole.choices]
    assert [c.index for c in whole.choices] == [0, 1, 2] and len(set(texts)) == 3, whole
    streamed, roles, ends, usage = ["", "", ""], [], [], None
    for chunk in client.chat.completions.create(**fields, stream=True,
                                                stream_options={"include_usage": True}):
        for c in chunk.choices:
            streamed[c.index] += c.delta.content or ""
            roles += [c.index] if c.delta.role else []
            ends += [c.index] if c.finish_reason else []
        usage = chunk.usage or usage
    assert streamed == texts and sorted(roles) == sorted(ends) == [0, 1, 2], (streamed, roles, ends)
    assert usage == whole.usage, (usage, whole.usage)


def check_logprobs():
    fields = dict(model=MODEL, messages=HELLO, temperature=0, max_tokens=12, logprobs=True,
                  top_logprobs=4)
    whole = client.chat.completions.create(**fields).choices[0]
    log = whole.logprobs.content
    assert b"".join(bytes(t.bytes) for t in log).decode() == whole.message.content, whole
    for t in log:
        assert len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token, t
        assert t.top_logprobs[0].logprob == t.logprob <= 0, t
        assert sorted((a.logprob for a in t.top_logprobs), reverse=True) == \
            [a.logprob for a in t.top_logprobs], t
    streamed = []
    for chunk in client.chat.completions.create(**fields, stream=True):
        for c in chunk.choices:
            streamed += (c.logprobs and c.logprobs.content) or []
    assert [t.model_dump() for t in streamed] == [t.model_dump() for t in log]
    none = client.chat.completions.create(**dict(fields, top_logprobs=0)).choices[0].logprobs
    assert [t.logprob for t in none.content] == [t.logprob for t in log]
    assert not any(t.top_logprobs for t in none.content)
    old = client.completions.create(model=MODEL, prompt="The capital of France is", temperature=0,
                                    max_tokens=4, logprobs=2).choices[0]
    assert "".join(old.logprobs.tokens) == old.text and old.logprobs.text_offset[0] == 0, old
    assert [len(t) for t in old.logprobs.top_logprobs] == [2] * 4, old
    forced = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2,
                                            logit_bias={"7042": 100})
    assert forced.choices[0].message.content == " Paris Paris", forced


def check_fields():
    """What the client may send along and changes no answer."""
    fields = dict(model=MODEL, messages=HELLO, temperature=0, max_tokens=4)
    plain = client.chat.completions.create(**fields).choices
    assert plain == client.chat.completions.create(
        **fields, n=1, user="u", metadata={"a": "b"}, store=False, service_tier="auto",
        parallel_tool_calls=True, prompt_cache_key="k", safety_identifier="s", verbosity="medium",
        reasoning_effort="medium", response_format={"type": "text"}, modalities=["text"],
        logprobs=False, logit_bias={}, stop=None).choices
    for name, value in dict(store=True, reasoning_effort="high", verbosity="low",
                            prediction={"type": "content", "content": "x"}).items():
        assert refused(openai.BadRequestError, **{name: value}).param == name


def check_models():
    assert [m.id for m in client.models.list()] == [MODEL]
    m = client.models.retrieve(MODEL)
    assert (m.id, m.object, m.owned_by) == (MODEL, "model", "modelpool") and m.created > 1e9, m
    assert client.models.list().data == [m]


def check_errors():
    assert refused(openai.NotFoundError, model="none").code == "model_not_found"
    assert refused(openai.BadRequestError, n=17).param == "n"
    assert refused(openai.BadRequestError, response_format={"type": "json_object"}).param == \
        "response_format"
    try:
        client.embeddings.create(model=MODEL, input="x")
    except openai.NotFoundError as e:
        assert "/v1/embeddings is not supported" in e.message, e
    else:
        raise AssertionError("embeddings")
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
