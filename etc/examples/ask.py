#!/usr/bin/env python3
"""Ask the job's model one question and print the answer as it comes.

Inside a job started with --model=NAME nothing needs to be configured: the OpenAI client takes
OPENAI_BASE_URL and OPENAI_API_KEY from the environment that modelpool has set.

    srun --model=smollm2 ./ask.py "Why is the sky blue?"
"""
import os
import sys

from openai import OpenAI

stream = OpenAI().chat.completions.create(
    model=os.environ["MODELPOOL_MODEL"],
    messages=[{"role": "user", "content": " ".join(sys.argv[1:])}],
    temperature=0,
    max_tokens=250,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
    if chunk.usage:
        print(f"\n[{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out]")
