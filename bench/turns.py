"""turns.py KEY OUT.json both|one A.gguf B.gguf: the measuring half of bench/turns.

A sample is STREAMS streams of a model, NEW tokens each, alone, and as many of each of two models at
the same time: total tokens a second, over HTTP, taken in turns.  Called a second time, it adds to
OUT.json.
"""
import json
import os
import sys

import client

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 5))
NEW = 160
STREAMS = 4
LIMIT = 0.9


def main():
    key, out, memory, a, b = sys.argv[1:]
    pool = client.Pool(key)
    prompts = client.prompts(STREAMS, 16)
    alone = {m: [(m, p) for p in prompts] for m in "ab"}
    both = alone["a"] + alone["b"]
    pool.together(both, 8)
    single, turns = [], []
    for _ in range(ROUNDS):
        # The same tokens either way, so that where the models differ, their mean is right.
        seconds = sum(client.timed(pool.together, alone[m], NEW) for m in "ab")
        single.append(len(both) * NEW / seconds)
        turns.append(len(both) * NEW / client.timed(pool.together, both, NEW))
    result = client.about("turns", "bench/turns")
    result["results"] = []
    if memory == "one" and os.path.exists(out):
        with open(out) as f:
            result["results"] = json.load(f)["results"]
    names = " and ".join(os.path.basename(p) for p in (a, b)) if a != b else \
        f"{os.path.basename(a)} under two names"
    held = "memory for both" if memory == "both" else "memory for one"
    result["results"].append(client.compared(f"two models in turns, {held}", names,
                                             LIMIT if memory == "both" else 0, turns, single))
    client.write(out, result)


main()
