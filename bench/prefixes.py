"""prefixes.py KEY OUT.json no|tenant MODEL.gguf: the measuring half of bench/prefixes.

A sample is the time of a request for one token behind a prompt of PREFIX tokens that nobody sent
before, and of one behind the same and MORE others.  Called a second time, it adds to OUT.json.
"""
import json
import os
import statistics
import sys

import client

ROUNDS = int(os.environ.get("BENCH_ROUNDS", 7))
PREFIX = 500
MORE = 20


def main():
    key, out, sharing, model = sys.argv[1:]
    pool = client.Pool(key)
    prefixes = client.prompts(ROUNDS + 1, PREFIX)
    tails = client.prompts(ROUNDS + 1, MORE)
    rows = []
    for prefix, tail in zip(prefixes, tails):
        first = client.timed(pool.stream, "a", prefix, 1)
        used = {}
        second = client.timed(lambda: used.update(pool.stream("a", prefix + tail, 1)))
        rows.append({"first_s": first, "second_s": second,
                     "cached_tokens": used["prompt_tokens_details"]["cached_tokens"]})
    rows = rows[1:]  # the first one loads the model
    result = client.about("prefixes", "bench/prefixes")
    result["results"] = []
    if sharing != "no" and os.path.exists(out):
        with open(out) as f:
            result["results"] = json.load(f)["results"]
    result["results"].append({
        "name": f"SharePrefixes={sharing}", "model": os.path.basename(model), "prefix": PREFIX,
        "more": MORE, "first_s_median": statistics.median(r["first_s"] for r in rows),
        "second_s_median": statistics.median(r["second_s"] for r in rows), "samples": rows})
    with open(out, "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    last = result["results"][-1]
    print(f"{last['name']:22} {PREFIX} tokens {last['first_s_median'] * 1e3:7.0f} ms, "
          f"the same and {MORE} more {last['second_s_median'] * 1e3:7.0f} ms")


main()
