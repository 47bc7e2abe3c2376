#!/usr/bin/env python3
"""Make smollm2-logprobs.golden: log probabilities of SmolLM2's GGUF file, by an independent reference.

transformers dequantizes the file to float32 and runs its own forward pass; log_softmax is torch's, in
float64.  Nothing of ours is in it.  Made with Python 3.11 and the versions in the file's first line,
as remake.py beside it; there is nothing random.

    v/bin/python logprobs.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf > smollm2-logprobs.golden

Lines: `p N t...` prompt N's tokens; `s N STEP token:logprob token:logprob...` the greedy token before
which STEP others were given, and the 20 likeliest.
"""
import os
import sys

import gguf  # noqa: F401: transformers reads the file with it
import torch
import transformers
from importlib.metadata import version

TEXTS = ["The capital of France is",
         "<|im_start|>user\nName a prime number.<|im_end|>\n<|im_start|>assistant\n",
         "1, 1, 2, 3, 5, 8, 13,"]
STEPS, TOP = 12, 20


def main():
    path = os.path.abspath(sys.argv[1])
    where = dict(pretrained_model_name_or_path=os.path.dirname(path),
                 gguf_file=os.path.basename(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    print(f"# {os.path.basename(path)}: torch {torch.__version__}, transformers "
          f"{transformers.__version__}, gguf {version('gguf')}; made by logprobs.py")
    with torch.inference_mode():
        for n, text in enumerate(TEXTS):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            print(f"p {n}", *ids)
            for step in range(STEPS):
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                logprobs = torch.log_softmax(logits.double(), -1)
                top = torch.topk(logprobs, TOP)
                ids.append(int(top.indices[0]))
                print(f"s {n} {step} {ids[-1]}:{float(logprobs[ids[-1]]):.7f}",
                      *(f"{t}:{v:.7f}" for t, v in zip(top.indices.tolist(), top.values.tolist())))


if __name__ == "__main__":
    main()
