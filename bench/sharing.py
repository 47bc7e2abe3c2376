"""sharing.py OUT [--demo]: the measuring half of bench/sharing; writes OUT.json and OUT.svg.

Two tenants share six models of one shape, and the device's memory holds two.  `chat` asks four of
them for short answers that must begin soon; `batch` has the other two write long ones, with time.
How often requests come, and how soon tokens are due, is in multiples of what work costs on this
machine, measured before: a request's service time alone, a step.  Each trace runs under each policy
on a pool that is started for it, and the simulator predicts the same arrivals from the same costs.
"""
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

import client

POLICIES = ("fcfs", "aegaeon", "slack")
SHAPE, MODELS, BATCH_MODELS, DTYPE = "tiny-c", 6, 2, "q8_0"
MEMORY = "160M"             # two of 64 MiB, and keys and values
INPUT = 32                  # tokens of a prompt
OUTPUT = {"chat": 32, "batch": 480}     # in the mean
SPREAD = 0.3                # of outputs, to both sides
LOAD = {"chat": 0.40, "batch": 0.40}    # of the device's time, if nothing ran in batches
SECONDS = 40, 60            # of arrivals: at least and at most, between them REQUESTS of chat
REQUESTS = 70
TTFT, TBT = 3, 4            # of chat: service times of its mean request, steps
SLACK = 8                   # of batch: steps a token, and 30 s for the first
POOL = [f"--shapes={SHAPE}:{MODELS}", f"--dtype={DTYPE}", f"--memory={MEMORY}", "--threads=1"]


def modelpool(*options):
    done = subprocess.run(["modelpool", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    if done.returncode:
        sys.exit(f"modelpool {' '.join(options)}: {done.stderr.strip()}")
    return done.stdout


class Costs:
    """What work costs, as `bench serve --write-costs=` has measured it."""

    def __init__(self, path):
        with open(path) as f:
            self.text = f.read()
        found = re.search(r"Prefill=(\S+) Decode=(\S+)", self.text)
        self.prefill, self.decode = ([float(x) for x in group.split(",")]
                                     for group in found.groups())
        self.step = self.decode[0] + self.decode[1] * (INPUT + OUTPUT["chat"]) + self.decode[2]

        wanted = REQUESTS * self.service(OUTPUT["chat"]) / LOAD["chat"]
        self.seconds = min(max(wanted, SECONDS[0]), SECONDS[1])

    def service(self, output):
        a, b, c = self.prefill
        step = self.decode[0] + self.decode[1] * (INPUT + output / 2) + self.decode[2]
        return a + b * INPUT + c * INPUT ** 2 + (output - 1) * step


def classes(costs):
    return {"chat": (TTFT * costs.service(OUTPUT["chat"]), TBT * costs.step),
            "batch": (30, SLACK * costs.step)}


def make_trace(path, seed, costs):
    """As many requests of each model as its load says, at random times: a Poisson process given its
    count, so that traces do not differ in how much there is to do."""
    draw = random.Random(seed)
    slo = {who: f"{ttft * 1e3:.0f}ms:{tbt * 1e3:.1f}ms"
           for who, (ttft, tbt) in classes(costs).items()}
    rows = []
    for model in range(MODELS):
        who = "batch" if model < BATCH_MODELS else "chat"
        share = BATCH_MODELS if who == "batch" else MODELS - BATCH_MODELS
        count = max(1, round(LOAD[who] / share * costs.seconds / costs.service(OUTPUT[who])))
        for _ in range(count):
            output = max(1, int(OUTPUT[who] * draw.uniform(1 - SPREAD, 1 + SPREAD)))
            rows.append((draw.uniform(0, costs.seconds), f"{SHAPE}#{model}", who, INPUT, output,
                         slo[who]))
    rows.sort()
    with open(path, "w") as f:
        f.write("arrival,model,tenant,input,output,class\n")
        for at, *rest in rows:
            f.write(",".join([f"{at:.6f}", *map(str, rest)]) + "\n")


def known(folder, policy):
    """Whether modelpoold runs by it."""
    path = os.path.join(folder, "policy.conf")
    with open(path, "w") as f:
        f.write(f"ClusterName=bench\nScheduler={policy}\nInstance=cpu Device=cpu Memory=1G\n")
    done = subprocess.run(["modelpool", "config", "check", path], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    return "scheduler" not in done.stdout.lower()


def measure(folder):
    path = os.path.join(folder, "costs.conf")
    modelpool("bench", "serve", *POOL, f"--folder={folder}/models", "--duration=1s", "--rate=1",
              "--input=fixed:16", "--output=fixed:4", f"--write-costs={path}", "--json")
    return path, Costs(path)


def run(folder, policy, costs_path, trace, served):
    """Figures of one trace under one policy: served, and predicted."""
    if not served:
        return {"predicted": json.loads(modelpool(
            "sim", f"--scheduler={policy}", f"--costs={costs_path}", "--gpus=1", "--turn=0.25s",
            "--prefetch=none", "--json", trace))}
    return json.loads(modelpool(
        "bench", "serve", *POOL, f"--folder={folder}/models", f"--scheduler={policy}",
        "--predict", "--json", trace))


def tenant(figures, who, key):
    return next(t[key] for t in figures["tenants"] if t["tenant"] == who)


ROWS = (("tokens on time", "%", lambda f: 100 * f["token_attainment"]),
        ("  of chat", "%", lambda f: 100 * tenant(f, "chat", "token_attainment")),
        ("  of batch", "%", lambda f: 100 * tenant(f, "batch", "token_attainment")),
        ("TTFT p50", "s", lambda f: f["ttft"]["p50"]),
        ("TTFT p99", "s", lambda f: f["ttft"]["p99"]),
        ("TTFT p99 of chat", "s", lambda f: tenant(f, "chat", "ttft_p99")),
        ("switches", "", lambda f: f["loads"]),
        ("weights moved", "GB", lambda f: f["weight_bytes"] / 1e9),
        ("in steps", "s", lambda f: f["step_seconds"]),
        ("engine time of chat", "s", lambda f: tenant(f, "chat", "gpu_seconds")),
        ("engine time of batch", "s", lambda f: tenant(f, "batch", "gpu_seconds")))


def show(results):
    """One trace: each policy's figures, and what was predicted."""
    print(f"    {'':22}" + "".join(f"{p:>22}" for p in results))
    print(f"    {'':22}" + "".join(f"{'served':>11}{'predicted':>11}" for _ in results))
    for name, unit, of in ROWS:
        cells = ""
        for figures in results.values():
            served = f"{of(figures):.2f}" if "token_attainment" in figures else "-"
            cells += f"{served:>11}{of(figures['predicted']):>11.2f}"
        print(f"    {name + (', ' + unit if unit else ''):22}{cells}")


def plot(path, runs):
    """Tokens on time, a bar a policy: served and predicted; with the least and most of the seeds."""
    lines = []
    for i, policy in enumerate(POLICIES):
        for kind, shift in (("served", -0.2), ("predicted", 0.2)):
            values = [100 * f["token_attainment"] for r in runs
                      for f in [r["policies"][policy] if kind == "served"
                                else r["policies"][policy]["predicted"]]
                      if "token_attainment" in f]
            if values:
                lines.append((kind, i + shift, sum(values) / len(values), min(values),
                              max(values)))
    text = ["set terminal svg size 720,480 font 'sans,13' background 'white'",
            f"set output '{path}'", "set title 'Six models, memory for two: tokens on time'",
            "set border 3", "set tics nomirror", "set style fill solid 0.9 noborder",
            "set ylabel '% (bars: least and most of the traces)'", "set yrange [0:105]",
            "set xrange [-0.6:2.6]", "set key below",
            "set xtics (" + ", ".join(f"'{p}' {i}" for i, p in enumerate(POLICIES)) + ")"]
    for kind in ("served", "predicted"):
        text.append(f"${kind} << EOD")
        text += [f"{x} {mean} {low} {high}" for k, x, mean, low, high in lines if k == kind]
        text.append("EOD")
    text.append("plot " + ", ".join(
        f"${kind} using 1:2:(0.36) with boxes lc rgb '{colour}' title '{kind}', "
        f"${kind} using 1:2:3:4 with yerrorbars lc rgb '#000000' ps 0 notitle"
        for kind, colour in (("served", "#0072b2"), ("predicted", "#bbbbbb"))))
    subprocess.run(["gnuplot"], input="\n".join(text) + "\n", text=True, check=True)


def summary(runs):
    """For bench/table: mean, least and most tokens on time over the traces, medians of the rest."""
    out = []
    for policy in POLICIES:
        row = {"policy": policy}
        for kind in ("served", "predicted"):
            figures = [r["policies"][policy] if kind == "served"
                       else r["policies"][policy]["predicted"] for r in runs]
            figures = [f for f in figures if "token_attainment" in f]
            if not figures:
                continue
            values = [100 * f["token_attainment"] for f in figures]
            row[kind] = {"tokens_on_time": {"mean": sum(values) / len(values), "least": min(values),
                                            "most": max(values)}}
            for key, of in (("ttft_p50", lambda f: f["ttft"]["p50"]),
                            ("ttft_p99", lambda f: f["ttft"]["p99"]),
                            ("switches", lambda f: f["loads"]),
                            ("gigabytes", lambda f: f["weight_bytes"] / 1e9),
                            ("step_seconds", lambda f: f["step_seconds"])):
                row[kind][key] = statistics.median(of(f) for f in figures)
        out.append(row)
    return out


def verdict(rows):
    """Slack's worst trace beside the best of the others."""
    served = {r["policy"]: r["served"]["tokens_on_time"] for r in rows if "served" in r}
    others = [v["most"] for p, v in served.items() if p != "slack"]
    print(f"slack {served['slack']['least']:.1f} % at least, the others {max(others):.1f} % at most")


def say_load(costs):
    c, b = (classes(costs)[who] for who in ("chat", "batch"))
    print(f"    a step of one sequence takes {costs.step * 1e3:.1f} ms here, a chat request alone "
          f"{costs.service(OUTPUT['chat']):.2f} s, one of batch {costs.service(OUTPUT['batch']):.2f}")
    print(f"    due: chat {c[0]:.2f} s and {c[1] * 1e3:.0f} ms a token, batch {b[0]} s and "
          f"{b[1] * 1e3:.0f} ms")


def main():
    out, demo = sys.argv[1], sys.argv[2:] == ["--demo"]
    seeds = 1 if demo else int(os.environ.get("BENCH_SEEDS", 5))
    # Not below the rig's folder: what is on its way there may be closed to the daemon's user.
    folder = tempfile.mkdtemp(prefix="sharing-", dir=os.environ["RIG_DIR"])
    os.chmod(folder, 0o755)
    os.environ["TMPDIR"] = os.environ["RIG_DIR"]  # where all goes when the namespace is killed
    served = {policy: known(folder, policy) for policy in POLICIES}
    costs_path, costs = measure(folder)
    say_load(costs)
    runs = []
    for seed in range(1, seeds + 1):
        trace = os.path.join(folder, f"trace{seed}.csv")
        make_trace(trace, seed, costs)
        results = {}
        for policy in POLICIES:
            print(f"    trace {seed} under {policy}: " + (f"{costs.seconds:.0f} s of arrivals" if
                  served[policy] else "this modelpoold does not know it, predicted alone"),
                  flush=True)
            results[policy] = run(folder, policy, costs_path, trace, served[policy])
        print()
        show(results)
        with open(trace) as f:
            requests = len(f.readlines()) - 1
        runs.append({"seed": seed, "requests": requests, "policies": results})
    result = client.about("sharing", "bench/sharing")
    result.update({"seconds": costs.seconds, "shape": SHAPE, "dtype": DTYPE, "models": MODELS,
                   "memory": MEMORY, "costs": costs.text, "load_average": os.getloadavg(),
                   "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                   "results": summary(runs), "runs": runs})
    result["threads"] = 1
    with open(out + ".json", "w") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    plot(out + ".svg", runs)
    print()
    verdict(result["results"])
    print(f"every figure: {out}.json, drawn: {out}.svg")


main()
