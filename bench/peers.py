"""peers.py KEY MODEL.gguf OUT.json: the measuring half of bench/peers.

Prompts are random tokens (the same for both), greedy, end-of-sequence ignored, so that both do the
same work: decode of one stream, time to the first token of a long prompt, eight streams at once.
"""
import http.client
import json
import os
import platform
import random
import statistics
import sys
import threading
import time

SAMPLES = 5
NEW = 64
LONG = 512
STREAMS = 8


def prompts(count, length, vocabulary=40000):
    rng = random.Random(length)
    return [[rng.randrange(100, vocabulary) for _ in range(length)] for _ in range(count)]


class Modelpool:
    name = "modelpool"

    def __init__(self, key):
        self.key = key

    def stream(self, tokens, new, times=None):
        c = http.client.HTTPConnection("127.0.0.1", 811, timeout=600)
        c.request("POST", "/v1/completions", json.dumps({
            "model": "model", "prompt": tokens, "max_tokens": new, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}),
            {"Authorization": "Bearer " + self.key, "Content-Type": "application/json"})
        answer = c.getresponse()
        assert answer.status == 200, answer.read()
        start, usage = time.perf_counter(), None
        for line in answer:
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
                if times is not None:
                    times.append(time.perf_counter())
        assert usage["completion_tokens"] == new
        return start

    def batch(self, many, new):
        threads = [threading.Thread(target=self.stream, args=(p, new)) for p in many]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def first(self, tokens):
        self.stream(tokens, 1)


class Transformers:
    name = "transformers"

    def __init__(self, path):
        import torch
        import transformers
        self.torch = torch
        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}, float32"
        folder, file = os.path.split(path)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32).eval()

    def batch(self, many, new):
        with self.torch.inference_mode():
            ids = self.torch.tensor(many)
            out = self.model.generate(ids, attention_mask=self.torch.ones_like(ids),
                                      do_sample=False, max_new_tokens=new, min_new_tokens=new)
        assert out.shape[1] == ids.shape[1] + new

    def first(self, tokens):
        self.batch([tokens], 1)


def timed(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(engine):
    one, eight, long = prompts(1, 16), prompts(STREAMS, 17), prompts(1, LONG)
    engine.batch(one, 8)  # loads, and warms what there is to warm
    return {
        "decode, 1 stream": [NEW / timed(lambda: engine.batch(one, NEW)) for _ in range(SAMPLES)],
        f"decode, {STREAMS} streams": [STREAMS * NEW / timed(lambda: engine.batch(eight, NEW))
                                       for _ in range(SAMPLES)],
        f"prefill, {LONG} tokens": [LONG / timed(lambda: engine.first(long[0]))
                                    for _ in range(SAMPLES)],
    }


def main():
    key, path, out = sys.argv[1:]
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.machine())
    result = {"machine": os.environ["BENCH_MACHINE"], "cpu": cpu, "cores": os.cpu_count(),
              "commit": os.environ["BENCH_COMMIT"], "command": "bench/peers",
              "model": os.path.basename(path), "unit": "tokens/s", "engines": {}}
    for make in (lambda: Modelpool(key), lambda: Transformers(path)):
        engine = make()
        result["engines"][engine.name] = measure(engine)
    with open(out, "w") as f:
        json.dump(result, f, indent=1)
    print(f"{cpu}, {result['cores']} cores, commit {result['commit']}; medians of {SAMPLES}")
    for name, rows in result["engines"].items():
        print(name)
        for what, samples in rows.items():
            print(f"    {what:24} {statistics.median(samples):8.1f} tokens/s")


main()
