"""peers_gpu.py - Hugging Face transformers on the GPU: decode and prefill of a random Llama-3-8B

    python3 bench/peers_gpu.py ENGINE.json OUT.json

ENGINE.json is what `modelpool bench engine --shape=llama3-8b --json` wrote on this machine just
before, and OUT.json keeps; it sets the two beside each other, in tokens/s.  bfloat16, SDPA attention; batch 1 with a
static cache and compiled steps, batch 64 as generate() does it.
"""
import json
import statistics
import sys
import time

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

engine = json.load(open(sys.argv[1]))
ours = {r["params"]: r for r in engine["results"]}


def median(name):
    return ours[name]["median"] / 1e6


def timed(f):
    torch.cuda.synchronize()
    start = time.monotonic()
    f()
    torch.cuda.synchronize()
    return time.monotonic() - start


def main():
    config = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336,
                         num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
                         max_position_embeddings=16384, rope_parameters={"rope_type": "default",
                                                                         "rope_theta": 500000.0})
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()
    rows, steps = [], 48

    def prompt(batch, tokens):
        return torch.randint(0, 128000, (batch, tokens), device="cuda")

    def row(name, params, peer, ours_rate):
        rows.append({"name": name, "params": params, "median": ours_rate, "peer": peer,
                     "ratio": ours_rate / peer, "limit": 1.0, "unit": "tokens/s"})
        print(f"{name}, {params}: modelpool {ours_rate:.0f}, transformers {peer:.0f} tokens/s", flush=True)

    def save():
        out = {k: engine[k] for k in ("commit", "date", "machine", "cpu", "gpu")}
        out.update(bench="peers-gpu", peer=f"transformers {transformers.__version__}, "
                   f"torch {torch.__version__}", results=rows, engine=engine["results"])
        json.dump(out, open(sys.argv[2], "w"), indent=1)

    with torch.inference_mode():
        for batch, tokens in ((1, 2048), (8, 1024)):
            ids = prompt(batch, tokens)
            times = [timed(lambda: model(ids, logits_to_keep=1)) for _ in range(4)][1:]
            row("prefill", f"{batch} x {tokens}", batch * tokens / statistics.median(times),
                batch * tokens / median(f"llama3-8b bf16, {batch} x {tokens}"))
            save()

        def generate(batch, new, **more):
            ids = prompt(batch, 512)
            return timed(lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new,
                                                do_sample=False, pad_token_id=0, **more))

        generate(64, 4)
        rate = 64 * steps / (generate(64, steps + 4) - generate(64, 4))
        row("decode", "batch 64, context 512", rate,
            64 / median("llama3-8b bf16, batch 64, context 512 to 576"))
        save()
        static = {"cache_implementation": "static"}
        generate(1, steps + 4, **static)
        generate(1, steps + 4, **static)
        long = statistics.median(generate(1, steps + 4, **static) for _ in range(3))
        short = statistics.median(generate(1, 4, **static) for _ in range(3))
        row("decode", "batch 1, context 512", steps / (long - short),
            1 / median("llama3-8b bf16, batch 1, context 512 to 576"))
        save()


main()
