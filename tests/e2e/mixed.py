"""mixed.py COUNT SEED: COUNT requests of all kinds, eight at a time, some cancelled half-way.

Runs inside a job and uses nothing but the environment that modelpool sets and Python's own library.
Prints one JSON line: what this client counted, {"requests", "prompt_tokens", "completion_tokens",
"cancelled"}.  A cancelled stream is half-closed (the server learns of it at once) and read to its
end, so that every token that reached the socket is counted here too.
"""
import json
import os
import random
import socket
import sys
import threading
import urllib.parse

URL = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
KEY = os.environ["OPENAI_API_KEY"]
MODELS = os.environ["MIXED_MODELS"].split(",")
PROMPTS = ["Count from 1 to 50.", "Say the alphabet.", "What is two plus two?", "List ten animals."]


def exchange(path, body, cancel_after=None):
    """Post; returns (status, list of the body's lines).  cancel_after: text events to read first."""
    data = json.dumps(body).encode()
    head = (f"POST {URL.path}{path} HTTP/1.1\r\nHost: {URL.netloc}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n")
    with socket.create_connection((URL.hostname, URL.port), timeout=300) as s:
        s.sendall(head.encode() + data)
        reader = s.makefile("rb")
        status = int(reader.readline().split()[1])
        lines, texts = [], 0
        for line in reader:
            line = line.strip()
            if not line.startswith((b"data: ", b"{")):
                continue
            lines.append(line)
            texts += has_text(line)
            if cancel_after is not None and texts >= cancel_after:
                s.shutdown(socket.SHUT_WR)
                cancel_after = None
        return status, lines


def has_text(line):
    if not line.startswith(b"data: {"):
        return False
    return any((c.get("delta") or c).get("content") or c.get("text")
               for c in json.loads(line[6:])["choices"])


class Client:
    def __init__(self, count, seed):
        self.random = random.Random(seed)
        self.left = count
        self.lock = threading.Lock()
        self.prompt_tokens_of = {}
        self.sums = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cancelled": 0}

    def body(self, model, prompt, tokens):
        return {"model": model, "temperature": 0, "max_tokens": tokens,
                "messages": [{"role": "user", "content": prompt}]}

    def learn(self):
        """How many tokens each prompt has, by the server's own count (billed like any other)."""
        for prompt in PROMPTS:
            status, lines = exchange("/chat/completions", self.body(MODELS[0], prompt, 1))
            assert status == 200, lines
            usage = json.loads(lines[-1])["usage"]
            self.prompt_tokens_of[prompt] = usage["prompt_tokens"]
            self.add(usage["prompt_tokens"], usage["completion_tokens"])

    def add(self, prompt, completion, cancelled=0):
        with self.lock:
            self.sums["requests"] += 1
            self.sums["prompt_tokens"] += prompt
            self.sums["completion_tokens"] += completion
            self.sums["cancelled"] += cancelled

    def one(self):
        with self.lock:
            if self.left == 0:
                return False
            self.left -= 1
            kind = self.random.choice(["plain", "stream", "cancel"])
            model, prompt = self.random.choice(MODELS), self.random.choice(PROMPTS)
            tokens, after = self.random.randint(4, 40), self.random.randint(1, 6)
        body = self.body(model, prompt, tokens if kind != "cancel" else 200)
        if kind == "plain":
            status, lines = exchange("/chat/completions", body)
            assert status == 200, lines
            usage = json.loads(lines[-1])["usage"]
            self.add(usage["prompt_tokens"], usage["completion_tokens"])
            return True
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        status, lines = exchange("/chat/completions", body, after if kind == "cancel" else None)
        assert status == 200, lines
        if lines[-1] == b"data: [DONE]":  # also a cancel that came too late
            usage = json.loads(lines[-2][6:])["usage"]
            self.add(usage["prompt_tokens"], usage["completion_tokens"])
        else:
            assert kind == "cancel", lines[-1]
            self.add(self.prompt_tokens_of[prompt], sum(map(has_text, lines)), 1)
        return True

    def run(self):
        while self.one():
            pass


def main():
    failures = []
    threading.excepthook = lambda args: failures.append(repr(args.exc_value))
    client = Client(int(sys.argv[1]), int(sys.argv[2]))
    client.learn()
    threads = [threading.Thread(target=client.run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("; ".join(failures))
    print(json.dumps(client.sums))


main()
