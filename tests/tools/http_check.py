#!/usr/bin/env python3
"""Checks of modelpoold over HTTP, each a function of its own; the exit status says how it went.

    http_check.py CHECK [WORD...]

Runs as the user whose lease it is; the daemon is at 127.0.0.1:811 and RIG_SOCKET, its model is
"small".  Only the standard library is used; openai_check.py has the checks with OpenAI's client.
"""
import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import wire

CONTROL = os.environ["RIG_SOCKET"]
HTTP_SOCKET = os.path.join(os.path.dirname(CONTROL), "http.sock")
MODEL = "small"


def ask_control(request, **words):
    """A connection on which a request was made, and the rows of its answer."""
    conn = socket.socket(socket.AF_UNIX)
    conn.settimeout(30)
    conn.connect(CONTROL)
    conn.sendall(wire.encode([("type", "hello"), ("version", 1), ("program", "http_check.py")]))
    assert wire.receive(conn)["type"] == "hello"
    conn.sendall(wire.encode([("type", request), *words.items()]))
    rows = []
    while True:
        row = wire.receive(conn)
        assert row and row["type"] != "error", row
        if row["type"] == "end":
            return conn, rows
        rows.append(row)
        if row["type"] in ("ok", "granted"):
            return conn, rows


@contextlib.contextmanager
def lease(request="lease", models=MODEL, **words):
    conn, rows = ask_control(request, models=models, **words)
    try:
        yield rows[0]["key"]
    finally:
        conn.close()


def ledger(request):
    conn, rows = ask_control("acct")
    conn.close()
    found = [row for row in rows if row["request"] == request]
    assert len(found) == 1, (request, found)
    return found[0]


def closed_row(request):
    for _ in range(100):
        row = ledger(request)
        if row["state"] != "open":
            return row
        time.sleep(0.05)
    raise AssertionError(f"row of {request} stays open")


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(HTTP_SOCKET)


def call(method, path, body=None, key=None, connection=None):
    c = connection or http.client.HTTPConnection("127.0.0.1", 811, timeout=120)
    if body is not None and not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    headers = {"Authorization": "Bearer " + key} if key else {}
    c.request(method, path, body, headers)
    answer = c.getresponse()
    answer.connection = c
    return answer


def complete(key, prompt="The capital of France is", **fields):
    fields.setdefault("temperature", 0)
    return call("POST", "/v1/completions", dict(model=MODEL, prompt=prompt, **fields), key)


def result(answer, status=200):
    text = answer.read()
    assert answer.status == status, (answer.status, text)
    assert answer.getheader("x-request-id"), answer.headers
    return json.loads(text)


def events(answer):
    assert answer.status == 200, (answer.status, answer.read())
    assert answer.getheader("Content-Type").startswith("text/event-stream")
    for line in answer:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def text_of(chunks):
    return "".join(c["choices"][0]["text"] for c in chunks if c.get("choices"))


def start_stream(key, count, **fields):
    """A long stream of which `count` chunks were read."""
    answer = complete(key, "Once upon a time", stream=True, ignore_eos=True,
                      **dict({"max_tokens": 900}, **fields))
    rows = events(answer)
    first = [next(rows) for _ in range(count)]
    return answer, rows, first


def daemon_pid():
    with open(os.environ["RIG_DIR"] + "/run/modelpoold.pid") as f:
        return int(f.read())


def engine_pid():
    out = subprocess.run(["pgrep", "-P", str(daemon_pid()), "modelpool-engin"], capture_output=True,
                         text=True, check=True)
    return int(out.stdout.split()[0])


# ---- checks ----------------------------------------------------------------------------------


def check_models():
    with lease() as key:
        listed = result(call("GET", "/v1/models", key=key))
        assert [m["id"] for m in listed["data"]] == [MODEL], listed
        assert result(call("GET", "/v1/models/" + MODEL, key=key))["max_model_len"] == 1024
        assert result(call("GET", "/v1/models/none", key=key), 404)["error"]["code"] == \
            "model_not_found"


def check_answers():
    with lease() as key:
        whole = result(complete(key, max_tokens=8))
        assert whole["object"] == "text_completion", whole
        assert whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"]["completion_tokens"] == 8
        assert "Paris" in whole["choices"][0]["text"], whole
        chunks = list(events(complete(key, max_tokens=8, stream=True,
                                      stream_options={"include_usage": True})))
        assert text_of(chunks) == whole["choices"][0]["text"]
        assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        row = ledger(whole["id"])
        assert (row["state"], row["finish"]) == ("done", "length"), row
        assert int(row["prompt_tokens"]) == whole["usage"]["prompt_tokens"]
        assert int(row["completion_tokens"]) == 8
        assert int(row["ttft_us"]) > 0 and int(row["engine_us"]) > 0


def check_chat():
    ask = dict(model=MODEL, temperature=0, max_tokens=12,
               messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}])
    with lease() as key:
        whole = result(call("POST", "/v1/chat/completions", ask, key))
        assert whole["choices"][0]["message"]["role"] == "assistant"
        chunks = list(events(call("POST", "/v1/chat/completions", dict(ask, stream=True), key)))
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        assert said == whole["choices"][0]["message"]["content"] != "", (said, whole)


def check_tokens_as_prompt():
    with lease() as key:
        one = result(complete(key, [504, 3575, 282, 4649, 314], max_tokens=4))
        assert one["usage"]["prompt_tokens"] == 5
        two = result(complete(key, [[504, 3575, 282, 4649, 314]], max_tokens=4))
        assert one["choices"] == two["choices"]
        refused = result(complete(key, [49152], max_tokens=4), 400)["error"]
        assert refused["param"] == "prompt" and "49152" in refused["message"], refused


def check_stop():
    with lease() as key:
        free = result(complete(key, max_tokens=16))["choices"][0]["text"]
        at = free[len(free) // 2:len(free) // 2 + 4]
        want = free[:free.index(at)]
        whole = result(complete(key, max_tokens=16, stop=[at]))
        assert whole["choices"][0]["text"] == want, (whole, at)
        assert whole["choices"][0]["finish_reason"] == "stop"
        assert whole["usage"]["completion_tokens"] < 16
        chunks = list(events(complete(key, max_tokens=16, stop=at, stream=True)))
        assert text_of(chunks) == want, (chunks, at)
        assert int(closed_row(whole["id"])["completion_tokens"]) == \
            whole["usage"]["completion_tokens"]


def check_seed():
    with lease() as key:
        def say(**fields):
            return result(complete(key, "My name is", max_tokens=16, temperature=1, **fields))[
                "choices"][0]["text"]
        assert say(seed=7) == say(seed=7) != say(seed=8)
        assert len({say() for _ in range(4)}) > 1


def check_choices():
    """n: each answer is that of its seed alone, and one row of the ledger has them all."""
    ask = dict(max_tokens=12, temperature=1.2, ignore_eos=True)
    with lease() as key:
        alone = [result(complete(key, "My name is", seed=40 + i, **ask))["choices"][0]["text"]
                 for i in range(3)]
        whole = result(complete(key, "My name is", seed=40, n=3, **ask))
        assert [c["index"] for c in whole["choices"]] == [0, 1, 2], whole
        assert [c["text"] for c in whole["choices"]] == alone, (whole, alone)
        assert len(set(alone)) == 3, alone
        used = whole["usage"]
        assert used["completion_tokens"] == 36 and used["prompt_tokens"] == 3, used
        row = closed_row(whole["id"])
        assert (int(row["prompt_tokens"]), int(row["completion_tokens"])) == (3, 36), row
        assert (row["state"], row["finish"]) == ("done", "length"), row
        rows = list(events(complete(key, "My name is", seed=40, n=3, stream=True,
                                    stream_options={"include_usage": True}, **ask)))
        order = [c["index"] for chunk in rows for c in chunk["choices"]]
        assert order != sorted(order), order  # they come side by side
        for i in range(3):
            mine = [c for chunk in rows for c in chunk["choices"] if c["index"] == i]
            assert "".join(c["text"] for c in mine) == alone[i], (mine, alone[i])
            assert [c["finish_reason"] for c in mine if c["finish_reason"]] == ["length"], mine
        assert rows[-1]["usage"] == used, rows[-1]


def check_choices_end():
    """One that is stopped early says so while the others go on."""
    with lease() as key:
        ask = dict(n=4, seed=3, temperature=1.5, max_tokens=60, ignore_eos=True)
        whole = result(complete(key, "Once upon a time", **ask))
        texts = [c["text"] for c in whole["choices"]]
        at = texts[0][8:11]
        want = [t[:t.index(at)] if at in t else t for t in texts]
        stopped = result(complete(key, "Once upon a time", stop=at, **ask))
        assert [c["text"] for c in stopped["choices"]] == want, (stopped, want)
        reasons = ["stop" if at in t else "length" for t in texts]
        assert [c["finish_reason"] for c in stopped["choices"]] == reasons, stopped
        rows = [c for chunk in events(complete(key, "Once upon a time", stop=at, stream=True, **ask))
                for c in chunk["choices"]]
        for i in range(4):
            assert "".join(c["text"] for c in rows if c["index"] == i) == want[i], (i, rows)
        ends = [(c["index"], c["finish_reason"]) for c in rows if c["finish_reason"]]
        assert sorted(ends) == list(enumerate(reasons)), ends
        if "length" in reasons:
            assert rows.index(next(c for c in rows if c["finish_reason"])) < len(rows) - 4, ends
        assert int(closed_row(stopped["id"])["completion_tokens"]) == \
            stopped["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]


def check_choices_budget():
    """A budget ends all choices to the token; the prompt is in it once."""
    with lease(tokens=50) as key:
        r = result(complete(key, "Count: 1 2 3", n=4, temperature=1, max_tokens=500,
                            ignore_eos=True))
        assert r["usage"]["total_tokens"] == 50, r["usage"]
        assert {c["finish_reason"] for c in r["choices"]} == {"length"}, r
        assert int(closed_row(r["id"])["completion_tokens"]) == r["usage"]["completion_tokens"]
        result(complete(key, "Count", max_tokens=1), 429)


def check_choices_cancel():
    """A stream of several choices that is cut off is billed what the socket took."""
    with lease(tokens=400) as key:
        answer, _, first = start_stream(key, 20, n=4, temperature=1)
        answer.close()
        answer.connection.close()
        row = closed_row(first[0]["id"])
        billed = int(row["completion_tokens"])
        assert (row["state"], row["finish"]) == ("cancelled", "cancel"), row
        assert len(first) <= billed < 320, (len(first), billed)
        total = int(row["prompt_tokens"]) + billed
        rest = result(complete(key, "a", max_tokens=400 - total - 1, ignore_eos=True))
        assert rest["usage"]["total_tokens"] == 400 - total, (rest["usage"], total)
        for _ in range(100):
            conn, rows = ask_control("status")
            conn.close()
            models = [r for r in rows if r.get("model") == MODEL and "waiting" in r]
            if all(r["running"] == r["waiting"] == "0" for r in models):
                return
            time.sleep(0.05)
        raise AssertionError(models)


def check_logprobs():
    """Shapes, sums and offsets; a stream has what the whole answer has."""
    with lease() as key:
        ask = dict(max_tokens=24, seed=5, temperature=1, ignore_eos=True, logprobs=3)
        whole = result(complete(key, "日本の首都は", **ask))["choices"][0]
        log = whole["logprobs"]
        assert {len(v) for v in log.values()} == {24} and len(log) == 4, log
        for token, p, top, at in zip(log["tokens"], log["token_logprobs"], log["top_logprobs"],
                                     log["text_offset"]):
            assert top[token] == p <= 0 and 3 <= len(top) <= 4, (token, p, top)
            if not token.startswith("bytes:"):
                assert whole["text"][at:at + len(token)] == token, (token, at, whole)
        joined = {k: [] for k in log}
        for chunk in events(complete(key, "日本の首都は", stream=True, **ask)):
            for k, v in (chunk["choices"][0]["logprobs"] or {}).items():
                joined[k] += v
        assert joined == log, (joined, log)
        zero = result(complete(key, "日本の首都は", **dict(ask, logprobs=0)))["choices"][0]
        assert zero["logprobs"]["token_logprobs"] == log["token_logprobs"]
        assert [list(t) for t in zero["logprobs"]["top_logprobs"]] == [[t] for t in log["tokens"]]
        assert "logprobs" in result(complete(key, "a"))["choices"][0]


def check_logprobs_stop():
    """Tokens behind a stop string's beginning are no part of the answer, nor of its log."""
    with lease() as key:
        free = result(complete(key, max_tokens=16, logprobs=1))["choices"][0]
        at = free["text"][20:24]
        ask = dict(max_tokens=16, stop=at, logprobs=1)
        cut = result(complete(key, **ask))["choices"][0]
        log, n = cut["logprobs"], len(cut["logprobs"]["tokens"])
        assert cut["text"] == free["text"][:free["text"].index(at)], cut
        assert log["tokens"] == free["logprobs"]["tokens"][:n] and 0 < n < 16, (log, free)
        assert log["text_offset"][-1] < len(cut["text"]) <= \
            log["text_offset"][-1] + len(log["tokens"][-1]), cut
        rows = [c["choices"][0] for c in events(complete(key, stream=True, **ask))]
        assert sum(((c["logprobs"] or {"tokens": []})["tokens"] for c in rows), []) == log["tokens"]


def check_logit_bias():
    with lease() as key:
        free = result(complete(key, max_tokens=1, logprobs=1))["choices"][0]
        first = free["logprobs"]["tokens"][0]
        forced = result(complete(key, max_tokens=3, logit_bias={"7042": 100}, logprobs=1))
        assert forced["choices"][0]["text"] == " Paris" * 3, forced
        banned = result(complete(key, max_tokens=1, logit_bias={"7042": -100}, logprobs=1))
        assert first == " Paris" and banned["choices"][0]["text"] != first, banned
        # the model's own distribution is told
        log = banned["choices"][0]["logprobs"]
        assert log["top_logprobs"][0][first] == free["logprobs"]["token_logprobs"][0], (log, free)


def check_refusals():
    def refuse(status, code, part, path="/v1/completions", method="POST", use=None, **fields):
        body = dict({"model": MODEL, "prompt": "x"}, **fields) if method == "POST" else None
        e = result(call(method, path, body, key if use is None else use), status)["error"]
        assert e["code"] == code and part in e["message"], e

    with lease() as key:
        refuse(400, None, "n must be an integer from 1 to 16", n=17)
        refuse(400, None, "best_of must be 1", n=2, best_of=2)
        refuse(400, None, "logprobs must be an integer from 0 to 5", logprobs=6)
        refuse(400, None, "small has no token 49152", logit_bias={"49152": 1})
        refuse(400, None, '{"type": "json_object"} is not supported', "/v1/chat/completions",
               response_format={"type": "json_object"}, messages=[{"role": "user", "content": "x"}])
        refuse(400, None, "echo is not supported", echo=True)
        refuse(400, None, "2 prompts", prompt=["a", "b"])
        refuse(400, "context_length_exceeded", "1024", max_tokens=1024)
        refuse(400, "context_length_exceeded", "1024", prompt="word " * 2000)
        refuse(400, "context_length_exceeded", "more than", prompt="x" * 2000000)
        refuse(400, None, "tools[0] must be", "/v1/chat/completions", tools=[{}])
        refuse(400, None, "knows no tools", "/v1/chat/completions",
               tools=[{"type": "function", "function": {"name": "f"}}],
               messages=[{"role": "user", "content": "x"}])
        refuse(400, None, "tool_choice is not supported", "/v1/chat/completions",
               tool_choice="required")
        refuse(400, None, "images are not supported by " + MODEL, "/v1/chat/completions",
               messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])
        refuse(404, "model_not_found", "none", model="none")
        refuse(403, "model_not_allowed", "broken", model="broken")
        refuse(404, "unknown_url", "/v1/embeddings is not supported", "/v1/embeddings", input="x")
        refuse(404, "unknown_url", "/v1/responses is not supported", "/v1/responses/abc",
               method="GET")
        refuse(404, "unknown_url", "no such path", "/v1/embedding")
        refuse(405, "method_not_allowed", "POST", method="GET")
        refuse(405, "method_not_allowed", "GET", "/v1/models")
        refuse(401, "invalid_api_key", "key", use="mp1.none")
        refuse(401, "invalid_api_key", "key", use=key[:-1] + ("0" if key[-1] != "0" else "1"))
        refuse(413, "request_too_large", "4194304", prompt="x" * 4200000)
    refuse(401, "invalid_api_key", "", use=key)


def check_other_users_key(key):
    e = result(complete(key), 401)["error"]
    assert e["code"] == "invalid_api_key", e


def check_no_key():
    """With exactly one live grant, the uid is enough, over TCP and over the Unix socket."""
    with lease():
        assert result(call("GET", "/v1/models"))["data"][0]["id"] == MODEL
        unix = UnixConnection("local", timeout=60)
        body = {"model": MODEL, "prompt": "a", "max_tokens": 2}
        result(call("POST", "/v1/completions", body, connection=unix))
        assert result(call("GET", "/v1/models", connection=unix))["data"][0]["id"] == MODEL
        with lease():
            assert result(call("GET", "/v1/models"), 401)["error"]["code"] == "invalid_api_key"


def check_budget():
    with lease(tokens=30) as key:
        r = result(complete(key, "Count: 1 2 3", max_tokens=500, ignore_eos=True))
        assert r["usage"]["total_tokens"] == 30 and r["choices"][0]["finish_reason"] == "length", r
        e = result(complete(key, "Count", max_tokens=1), 429)["error"]
        assert e["code"] == "insufficient_quota" and "30" in e["message"], e


def check_budget_shared():
    """Requests at once share a budget to the token."""
    with lease(tokens=60) as key:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda _: complete(key, "a", max_tokens=50, ignore_eos=True),
                                 range(4)))
        used = [json.loads(r.read())["usage"]["total_tokens"] for r in done if r.status == 200]
        assert sum(used) == 60, used
        result(complete(key, "a"), 429)


def check_cancel():
    """A stream that is cut off is billed what the socket took."""
    with lease(tokens=100) as key:
        answer, _, first = start_stream(key, 12)
        got = len(first)
        answer.close()
        answer.connection.close()
        row = closed_row(first[0]["id"])
        billed = int(row["completion_tokens"])
        assert (row["state"], row["finish"]) == ("cancelled", "cancel"), row
        assert got <= billed < 80, (got, billed)
        # what was not billed is in the budget again
        total = int(row["prompt_tokens"]) + billed
        rest = result(complete(key, "a", max_tokens=100 - total - 1, ignore_eos=True))
        assert rest["usage"]["total_tokens"] == 100 - total, (rest["usage"], total)


def check_cancel_whole():
    """A client that leaves before its whole answer gets and pays no answer."""
    with lease() as key:
        c = http.client.HTTPConnection("127.0.0.1", 811)
        c.request("POST", "/v1/completions", json.dumps(
            {"prompt": "a", "max_tokens": 900, "ignore_eos": True}), {"Authorization": "Bearer " + key})
        time.sleep(0.7)
        c.close()
        for _ in range(100):
            conn, rows = ask_control("acct")
            conn.close()
            if rows[-1]["state"] == "cancelled":
                break
            time.sleep(0.05)
        assert rows[-1]["state"] == "cancelled" and rows[-1]["completion_tokens"] == "0", rows[-1]


def check_prefix():
    """A prompt that begins as one before it is computed from there on, and its answer is the same
    as without; whose beginning it is not allowed to know it does not find."""
    facts = " ".join(f"Fact {i}: the number {i} comes before {i + 1}." for i in range(30))
    asks = [facts + " Question: what comes " + word for word in ("before 7?", "after 9?")]

    def ask(prompt, **fields):
        return result(complete(key, prompt, max_tokens=8, ignore_eos=True, **fields))

    with lease() as key:
        first, second, again = ask(asks[0]), ask(asks[1]), ask(asks[0])
        chunks = list(events(complete(key, asks[0], max_tokens=8, ignore_eos=True, stream=True,
                                      stream_options={"include_usage": True})))
    used = [r["usage"]["prompt_tokens_details"]["cached_tokens"] for r in (first, second, again)]
    tokens = first["usage"]["prompt_tokens"]
    assert used[0] == 0 and tokens - 48 < used[1] < tokens and tokens - 17 <= used[2] < tokens, \
        (used, tokens)
    assert again["choices"] == first["choices"] and text_of(chunks) == first["choices"][0]["text"]
    assert chunks[-1]["usage"] == again["usage"]
    assert [int(ledger(r["id"])["cached_tokens"]) for r in (first, second, again)] == used


def check_prefix_of_others():
    """As another user, after check_prefix."""
    facts = " ".join(f"Fact {i}: the number {i} comes before {i + 1}." for i in range(30))
    with lease() as key:
        r = result(complete(key, facts + " Question: what comes before 7?", max_tokens=8))
    assert r["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, r


def check_lease_ends():
    with lease() as key:
        answer, rows, first = start_stream(key, 5)
    last = list(rows)[-1]
    assert last["error"]["code"] == "invalid_api_key", last
    row = closed_row(first[0]["id"])
    assert row["state"] == "cancelled" and int(row["completion_tokens"]) >= 5, row


def check_many():
    """Neighbours change nothing."""
    with lease() as key:
        def one(i):
            r = complete(key, f"The number {i} is", max_tokens=12, stream=i % 2 == 0)
            return text_of(list(events(r)) if i % 2 == 0 else [result(r)])
        alone = [one(i) for i in range(4)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(one, [i % 4 for i in range(32)]))
        assert together == alone * 8


def check_metrics():
    with lease() as key:
        result(complete(key, max_tokens=3))
    page = call("GET", "/metrics").read().decode()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
              for line in page.splitlines() if not line.startswith("#")}
    label = '{model_name="small"}'
    assert values["vllm:generation_tokens_total" + label] >= 3
    assert values["vllm:num_requests_running" + label] == 0
    assert values["vllm:time_to_first_token_seconds_count" + label] >= 1
    assert values['modelpool_model_resident{model_name="small",instance="cpu"}'] == 1
    assert values['modelpool_memory_bytes{instance="cpu"}'] > 0


def check_slow_tcp():
    """A client that stops reading for a while loses nothing."""
    with lease() as key:
        want = result(complete(key, "Once upon a time", ignore_eos=True, max_tokens=60))
        answer, rows, first = start_stream(key, 3, max_tokens=60)
        time.sleep(3)
        assert text_of(first + list(rows)) == want["choices"][0]["text"]


def check_bytes_in_advance():
    """Requests sent before the first one is answered are answered in turn."""
    with lease() as key:
        body = json.dumps({"prompt": "a", "max_tokens": 20, "stream": True, "ignore_eos": True,
                           "temperature": 0})  # sampled text may have "ok" in it
        s = socket.create_connection(("127.0.0.1", 811), timeout=60)
        s.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
                   f"Content-Length: {len(body)}\r\n\r\n{body}"
                   "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").encode())
        got = b""
        while more := s.recv(65536):
            got += more
        assert got.count(b"HTTP/1.1 200 OK") == 2 and got.index(b"[DONE]") < got.index(b'"ok"'), got


# ---- tenants, promises; two models, "small" and "other" -----------------------------------------


def status(kind):
    conn, rows = ask_control("status")
    conn.close()
    return [row for row in rows if row["type"] == kind]


def check_day():
    """60 tokens a day, over all leases of the account."""
    with lease() as key:
        r = result(complete(key, "Count: 1 2 3", max_tokens=500, ignore_eos=True))
        assert r["usage"]["total_tokens"] == 60 and r["choices"][0]["finish_reason"] == "length", r
    check_day_is_over()


def check_day_is_over():
    with lease() as key:
        r = complete(key, "Count", max_tokens=1)
        e = result(r, 429)["error"]
        assert e["code"] == "rate_limit_exceeded" and "TokensPerDay=" in e["message"], e
        assert "60 of its 60 tokens of today" in e["message"], e
        assert 1 <= int(r.getheader("Retry-After")) <= 25 * 3600
        tenant, = [t for t in status("tenant") if t["account"] == "local"]
        assert (tenant["tokens_today"], tenant["tokens_per_day"]) == ("60", "60"), tenant


def check_requests_at_once():
    """Two at once, over all leases of the account."""
    with lease() as one, lease() as two:
        streams = [start_stream(one, 1), start_stream(two, 1)]
        r = complete(one, max_tokens=1)
        e = result(r, 429)["error"]
        assert e["code"] == "rate_limit_exceeded" and "MaxRequests=" in e["message"], e
        assert r.getheader("Retry-After") == "1"
        streams[0][0].connection.close()
        streams[0][0].close()
        for _ in range(100):
            r = complete(two, max_tokens=1)
            if r.status == 200:
                break
            r.read()
            time.sleep(0.05)
        assert r.status == 200, r.status


def slo_for(model, part):
    """An SLO whose token rate takes that part of the device's time, by what was measured."""
    cost, = [c for c in status("cost") if c["model"] == model]
    assert int(cost["steps"]) >= 40, cost
    return f"ttft:60,tbt:{(float(cost['step']) + float(cost['row'])) / part:.6f}"


def measure(model):
    with lease(models=model) as key:
        result(call("POST", "/v1/completions", dict(
            model=model, prompt="Once upon a time", max_tokens=80, ignore_eos=True), key))


def check_promises():
    """Batches that need half and two thirds of the time: the second one is refused, or waits."""
    ask = dict(model="other", prompt="a", max_tokens=2)
    measure(MODEL)
    measure("other")
    with lease(slo=slo_for(MODEL, 0.5)) as key, \
            lease(models="other", slo=slo_for("other", 0.67)) as other:
        slo = slo_for("other", 0.67)
        answer, rows, first = start_stream(key, 3)
        r = call("POST", "/v1/completions", ask, other)
        e = result(r, 429)["error"]
        assert e["code"] == "rate_limit_exceeded" and "cannot be promised" in e["message"], e
        assert "90 %" in e["message"] and int(r.getheader("Retry-After")) > 0, e
        grant = dict(job=81, step=0, step_name="0", uid=0, gid=0, models="other", slo=slo)
        with lease("grant", **grant, wait=60) as waiting, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(call, "POST", "/v1/completions", dict(ask, stream=True), waiting)
            time.sleep(1)
            assert not held.done()
            wait, = status("wait")
            assert wait["model"] == "other" and "cannot be promised" in wait["text"], wait
            assert [d["held"] for d in status("daemon")] == ["1"]
            answer.connection.close()  # its promise is free
            answer.close()
            assert text_of(list(events(held.result(60)))) != ""
        began = time.monotonic()
        with lease("grant", **dict(grant, step=1, slo="ttft:60,tbt:0.00001"), wait=60) as never:
            e = result(call("POST", "/v1/completions", ask, never), 429)["error"]
            assert "cannot be kept" in e["message"] and time.monotonic() - began < 10, e
    page = call("GET", "/metrics").read().decode()
    assert 'modelpool_refused_total{reason="admission"} 2\n' in page, page
    assert 'modelpool_admission_queue{model_name="other"} 0\n' in page
    assert 'modelpool_cost_error_ratio{model_name="other",instance="cpu",kind="step"} ' in page


def check_taught():
    """A daemon that was just started knows what steps cost."""
    for model in (MODEL, "other"):
        cost, = [c for c in status("cost") if c["model"] == model]
        assert int(cost["steps"]) >= 40 and float(cost["step"]) > 0, cost


def check_shares(want):
    """Two accounts that both ask for more than there is, each of a model of its own: device time
    goes by their shares, which are as 3 to 1."""
    slo = dict(slo="ttft:0.01,tbt:0.001")
    grant = dict(job=82, step=0, step_name="0", uid=0, gid=0, models="other")
    over = []

    def flood(key, model, tokens):
        while not over:
            result(call("POST", "/v1/completions", dict(
                model=model, prompt="a", max_tokens=tokens, ignore_eos=True), key))

    def times():
        used = {t["account"]: float(t["gpu_seconds"]) for t in status("tenant")}
        return used.get("local", 0), used.get("unknown", 0)

    with lease(**slo) as key, lease("grant", **grant, **slo) as other:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            # of different lengths, so that no account is idle for a moment, which takes its lead
            jobs = [pool.submit(flood, k, m, tokens) for tokens in (37, 53, 71, 89)
                    for k, m in [(key, MODEL), (other, "other")]]
            time.sleep(2)
            began = times()
            while sum(times()) - sum(began) < 16:
                assert not any(job.done() for job in jobs), [job.result() for job in jobs]
                time.sleep(0.2)
            ended = times()
            over.append(1)
            for job in jobs:
                job.result()
    ratio = (ended[0] - began[0]) / (ended[1] - began[1])
    print(f"{ratio:.2f}")
    low, high = (float(word) for word in want.split("-"))
    assert low < ratio < high, (ratio, began, ended)


# ---- checks that kill; as root ------------------------------------------------------------------


def check_engine_dies():
    """kill -9 of an engine with 8 open streams: of each one's tokens none is doubled, none missing,
    and all are billed once."""
    streams, length = 8, 40
    prompts = [f"Chapter {i}. Once upon a time" for i in range(streams)]
    fields = dict(max_tokens=length, ignore_eos=True)
    all_began = threading.Barrier(streams + 1, timeout=120)

    def follow(prompt):
        rows = events(complete(key, prompt, stream=True, stream_options={"include_usage": True},
                               **fields))
        chunks = [next(rows) for _ in range(5)]
        all_began.wait()
        return chunks + list(rows)

    with lease() as key:
        alone = [result(complete(key, p, **fields))["choices"][0]["text"] for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(streams) as pool:
            followed = [pool.submit(follow, p) for p in prompts]
            all_began.wait()
            dead = engine_pid()
            os.kill(dead, signal.SIGKILL)
            got = [f.result() for f in followed]
        assert engine_pid() != dead
        for chunks, want in zip(got, alone):
            assert text_of(chunks) == want, (text_of(chunks), want)
            assert chunks[-1]["usage"]["completion_tokens"] == length, chunks[-1]
            row = closed_row(chunks[0]["id"])
            assert (row["state"], int(row["completion_tokens"])) == ("done", length), row


def check_engine_dies_choices():
    """Nothing is lost, doubled or changed of several choices and their log probabilities."""
    ask = dict(max_tokens=60, ignore_eos=True, n=3, seed=2, temperature=1, logprobs=2)
    with lease() as key:
        want = result(complete(key, "Once upon a time", **ask))["choices"]
        rows = events(complete(key, "Once upon a time", stream=True, **ask))
        chunks = [next(rows) for _ in range(20)]
        os.kill(engine_pid(), signal.SIGKILL)
        chunks += list(rows)
        for i in range(3):
            mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == i]
            assert "".join(c["text"] for c in mine) == want[i]["text"], (mine, want[i])
            log = sum(((c["logprobs"] or {"token_logprobs": []})["token_logprobs"] for c in mine), [])
            assert log == want[i]["logprobs"]["token_logprobs"], (log, want[i])


def check_daemon_dies(path):
    """Read a stream until the daemon is killed; print its id and the number of chunks."""
    with lease() as key:
        answer, rows, chunks = start_stream(key, 15)
        os.kill(daemon_pid(), signal.SIGKILL)
        with contextlib.suppress(OSError, http.client.HTTPException):
            chunks += list(rows)
    with open(path, "w") as f:
        f.write(f"{chunks[0]['id']} {len(chunks)}\n")


def check_interrupted(path):
    """The ledger has what was delivered: not more, and at most the last write less."""
    with open(path) as f:
        request, count = f.read().split()
    row = ledger(request)
    billed = int(row["completion_tokens"])
    assert row["state"] == "interrupted" and int(count) - 1 <= billed <= int(count), (row, count)


def check_stopped():
    """SIGTERM ends what runs, and quickly."""
    with lease() as key:
        answer, rows, first = start_stream(key, 5)
        began = time.monotonic()
        os.kill(daemon_pid(), signal.SIGTERM)
        last = list(rows)[-1]
        assert last["error"]["code"] == "shutting_down", last
        while os.path.exists(f"/proc/{daemon_pid()}/exe"):
            assert time.monotonic() - began < 4, "still there"
            time.sleep(0.02)


def check_no_engine():
    health = result(call("GET", "/health"), 503)
    assert health["status"] == "unavailable", health
    grant = dict(job=71, step=0, step_name="0", uid=0, gid=0)
    with lease("grant", **grant) as key:
        r = complete(key, max_tokens=2)
        assert result(r, 503)["error"]["code"] == "engine_unavailable" and r.getheader("Retry-After")
    with lease("grant", **dict(grant, step=1, step_name="1"), wait=1) as key:
        began = time.monotonic()
        r = complete(key, max_tokens=2)
        assert result(r, 429)["error"]["code"] == "rate_limit_exceeded" and r.getheader("Retry-After")
        assert 0.8 < time.monotonic() - began < 5


def check_held(path):
    """A request is held until the engine is there, which path's appearance allows."""
    with lease("grant", job=72, step=0, step_name="0", uid=0, gid=0, wait=60) as key:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(complete, key, max_tokens=2)
            time.sleep(1)
            assert not held.done()
            conn, rows = ask_control("status")
            conn.close()
            assert [r["held"] for r in rows if "held" in r] == ["1"], rows
            with open(path, "w"):
                pass
            assert result(held.result(60))["usage"]["completion_tokens"] == 2


globals()["check_" + sys.argv[1]](*sys.argv[2:])
