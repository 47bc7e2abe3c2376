#!/usr/bin/env python3
"""Make NAME.golden: what a model's GGUF file gives, by an independent f32 reference.

transformers dequantizes the file to float32 and runs its own forward pass, one sequence at a time;
nothing of ours is in it.  Made with Python 3.11, torch 2.x, transformers and gguf of the versions in
the file's first line; no seed but that of the random prompts below.

    python3 -m venv v && v/bin/pip install accelerate gguf torch transformers
    v/bin/python remake.py smollm2 PATH/SmolLM2-135M-Instruct.Q4_1.gguf > smollm2.golden
    v/bin/python remake.py gemma3 PATH/gemma-3-270m-q4_k_m.gguf > gemma3.golden

Lines: `p N t...` prompt N's tokens; `g N t...` its greedy tokens; `m N GAP STEP` the narrowest gap
between the two highest logits, and where; `l N STEP token:logit...` the 20 highest logits before
token STEP of the output.
"""
import os
import random
import sys

import gguf
import torch
import transformers
from importlib.metadata import version

TOP = 20
# Greedy steps, those with logits, prompts with logits.
SUITES = {"smollm2": (64, (0, 1, 16, 63), range(0, 32, 4)),
          "gemma3": (64, (0, 1, 16, 63), range(0, 16, 3))}

TEXTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "#include <stdio.h>\n\nint main(void)\n{\n",
    "Question: What is 17 plus 25?\nAnswer:",
    "Die Hauptstadt von Deutschland ist",
    "La photosynthèse est le processus par lequel",
    "SELECT name, COUNT(*) FROM users WHERE",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 1, 2, 3, 5, 8, 13,",
    "The three laws of thermodynamics state that",
    "Ingredients:\n- 2 eggs\n- 100 g flour\n-",
    "In 1969, the first humans",
    "import numpy as np\n\nx = np.array([",
    "To be, or not to be, that is the question:",
    "日本の首都は",
    "A GPU differs from a CPU in that",
    "{\"name\": \"Alice\", \"age\": 30, \"city\": \"",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "Water boils at 100 degrees Celsius at sea level because",
]
CHATS = [
    "What is gravity?",
    "Write a haiku about autumn.",
    "List three prime numbers above 100.",
    "Explain recursion to a child.",
    "Translate 'good morning' to Spanish.",
    "Who wrote Hamlet, and when?",
    "Give me a regular expression for an e-mail address.",
    "Summarize: " + "The committee met on Tuesday and agreed to postpone the vote. " * 24,
]


def prompts(suite, path, vocabulary):
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path))
    rng = random.Random(1)
    if suite == "gemma3":  # a base model of a large vocabulary: few prompts, BOS before each
        for text in TEXTS[:13] + [TEXTS[15]]:
            yield [2] + tokenizer(text, add_special_tokens=False)["input_ids"]
        for length in (3, 700):  # longer than its window of 512
            yield [2] + [rng.randrange(vocabulary) for _ in range(length)]
        return
    for text in TEXTS:
        yield tokenizer(text, add_special_tokens=False)["input_ids"]
    for text in CHATS:
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        yield tokenizer(chat, add_special_tokens=False)["input_ids"]
    for length in (1, 17, 128, 700):  # no sense at all, and longer than two chunks
        yield [rng.randrange(vocabulary) for _ in range(length)]


def main():
    suite, path = sys.argv[1], os.path.abspath(sys.argv[2])
    steps, logit_steps, logit_prompts = SUITES[suite]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)
    model.eval()
    print(f"# {os.path.basename(path)}: torch {torch.__version__}, transformers "
          f"{transformers.__version__}, gguf {version('gguf')}; made by remake.py")
    with torch.inference_mode():
        for n, prompt in enumerate(prompts(suite, path, model.config.vocab_size)):
            out, cache, gap, where, lines = [], None, float("inf"), 0, []
            ids = torch.tensor([prompt])
            for step in range(steps):
                got = model(input_ids=ids, past_key_values=cache, use_cache=True)
                cache = got.past_key_values
                top = torch.topk(got.logits[0, -1].float(), TOP)
                if n in logit_prompts and step in logit_steps:
                    lines.append(f"l {n} {step} " + " ".join(
                        f"{t}:{v:.5f}" for t, v in zip(top.indices.tolist(), top.values.tolist())))
                if float(top.values[0] - top.values[1]) < gap:
                    gap, where = float(top.values[0] - top.values[1]), step
                out.append(int(top.indices[0]))
                ids = torch.tensor([[out[-1]]])
            print(f"p {n}", *prompt)
            print(f"g {n}", *out)
            print(f"m {n} {gap:.6f} {where}")
            print("\n".join(lines), end="\n" if lines else "")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
