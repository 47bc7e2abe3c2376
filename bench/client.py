"""client.py: what the measuring halves of benches share: prompts, requests, results."""
import datetime
import http.client
import json
import os
import platform
import random
import statistics
import threading
import time


def prompts(count, length, vocabulary=40000):
    """Random tokens, the same ones each time."""
    rng = random.Random(length)
    return [[rng.randrange(100, vocabulary) for _ in range(length)] for _ in range(count)]


def timed(work, *args):
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


class Pool:
    """modelpoold over HTTP; greedy, and end-of-sequence is ignored, so that work does not vary."""

    def __init__(self, key):
        self.key = key

    def stream(self, model, tokens, new):
        c = http.client.HTTPConnection("127.0.0.1", 811, timeout=600)
        c.request("POST", "/v1/completions", json.dumps({
            "model": model, "prompt": tokens, "max_tokens": new, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}),
            {"Authorization": "Bearer " + self.key, "Content-Type": "application/json"})
        answer, usage = c.getresponse(), None
        assert answer.status == 200, answer.read()
        for line in answer:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
        assert usage["completion_tokens"] == new
        return usage

    def together(self, requests, new):
        """requests: (model, prompt) each, all at the same time."""
        threads = [threading.Thread(target=self.stream, args=(m, p, new)) for m, p in requests]
        for t in threads:
            t.start()
        for t in threads:
            t.join()


def about(bench, command):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.machine())
    return {"bench": bench, "command": command, "commit": os.environ["BENCH_COMMIT"],
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": os.environ["BENCH_MACHINE"], "kernel": platform.release(), "cpu": cpu,
            "cpus": os.cpu_count(), "threads": 2}


def compared(name, params, limit, ours, theirs):
    """A row: two lists of samples taken in turns, of figures where more is better."""
    a, b = statistics.median(ours), statistics.median(theirs)
    return {"name": name, "params": params, "unit": "tokens/s", "median": a, "peer": b,
            "ratio": a / b, "limit": limit, "samples": ours, "peer_samples": theirs}


def write(path, result):
    with open(path, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    print(f"{result['cpu']}, {result['cpus']} cpus, commit {result['commit']}")
    print(f"{'':54} {'tokens/s':>9} {'peer':>9} {'ratio':>6} {'limit':>6}")
    for r in result["results"]:
        print(f"{r['name'] + ', ' + r['params']:54} {r['median']:9.1f} {r['peer']:9.1f} "
              f"{r['ratio']:6.2f} {r['limit']:6.2f}")
