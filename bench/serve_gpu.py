"""serve_gpu.py OUT.json: what bench/serve-gpu makes of a run's report: a result, and a table of it."""
import datetime
import json
import os
import sys

ROWS = (("tokens on time", "%", lambda f: 100 * f["token_attainment"]),
        ("requests on time", "%", lambda f: 100 * f["request_attainment"]),
        ("requests", "", lambda f: f["requests"]),
        ("tokens", "", lambda f: f["tokens"]),
        ("TTFT p50", "s", lambda f: f["ttft"]["p50"]),
        ("TTFT p95", "s", lambda f: f["ttft"]["p95"]),
        ("TTFT p99", "s", lambda f: f["ttft"]["p99"]),
        ("mean time between tokens p50", "ms", lambda f: 1e3 * f["tbt_mean"]["p50"]),
        ("mean time between tokens p99", "ms", lambda f: 1e3 * f["tbt_mean"]["p99"]),
        ("turns", "", lambda f: f["turns"]),
        ("loads", "", lambda f: f["loads"]),
        ("weights moved", "GB", lambda f: f["weight_bytes"] / 1e9),
        ("in switches", "s", lambda f: f["switch_seconds"]),
        ("in steps", "s", lambda f: f["step_seconds"]),
        ("last token after", "s", lambda f: f["seconds"]))

out = sys.argv[1]
with open(out) as file:
    served = json.load(file)
with open(out + ".costs") as file:
    costs = file.read()
predicted = served["predicted"]
result = {"bench": "serve-gpu", "command": "bench/serve-gpu " + " ".join(sys.argv[2:]),
          "commit": os.environ.get("COMMIT", "unknown"), "machine": os.environ["MACHINE"],
          "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
          "cpu": os.environ["GPU"], "models": served["models"], "shapes": os.environ["SHAPES"],
          "seconds": os.environ["TIME"], "rate": float(os.environ["RATE"]),
          "scheduler": served["scheduler"], "costs": costs,
          "results": [{"name": name, "unit": unit, "served": of(served),
                       "predicted": of(predicted)} for name, unit, of in ROWS],
          "run": served}
with open(out, "w") as file:
    json.dump(result, file, indent=1)
    file.write("\n")
os.remove(out + ".costs")
print(f"{served['models']} models on {served['device']} under {served['scheduler']}, "
      f"{served['failed']} requests failed, {served['refused']} refused")
print(costs, end="")
print(f"{'':34}{'served':>12}{'predicted':>12}")
for row in result["results"]:
    name = row["name"] + (f", {row['unit']}" if row["unit"] else "")
    print(f"{name:34}{row['served']:12.2f}{row['predicted']:12.2f}")
