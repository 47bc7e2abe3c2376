#!/usr/bin/env python3
"""Make the seeds of the fuzz targets from golden files: tokenizer_corpus/ and safetensors_corpus/.

    python3 tests/fuzz/seeds.py

A tokenizer's seed is a family's tokenizer.json with a few tokens only; a checkpoint's is a file of
its folder behind the byte of its enum source_kind (model/source.h).
"""
import glob
import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "..", "golden")
WEIGHTS, CONFIG, TOKENIZER, KINDS = 1, 3, 5, 9
MERGES = 10


def write(folder, name, data):
    os.makedirs(os.path.join(HERE, folder), exist_ok=True)
    with open(os.path.join(HERE, folder, name), "wb") as f:
        f.write(data)


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def shrink(tokenizer):
    """Keep special and single tokens, those that the first merges make, and no gaps in the ids."""
    model = tokenizer["model"]
    added = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    if model["type"] == "Unigram":
        model["vocab"] = model["vocab"][:24]
        last = 24
    else:
        model["merges"] = model["merges"][:MERGES]
        made = {"".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]}
        keep = [t for t, i in sorted(model["vocab"].items(), key=lambda item: item[1])
                if len(t) == 1 or t in made or t in added or t.startswith("<0x")]
        model["vocab"] = {t: i for i, t in enumerate(keep)}
        last = len(keep)
    for token in tokenizer["added_tokens"]:
        if model["type"] == "Unigram":
            known = token["id"] < last
        else:
            known = token["content"] in model["vocab"]
            token["id"] = model["vocab"].get(token["content"], 0)
        if not known:
            token["id"], last = last, last + 1
    ids = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    post = tokenizer["post_processor"] or {}
    for part in [post] + post.get("processors", []):
        for name, special in part.get("special_tokens", {}).items():
            special["ids"] = [ids[name]]


def tokenizers():
    for path in sorted(glob.glob(GOLDEN + "/model/families/*.jsonl")):
        with open(path, encoding="utf-8") as f:
            first = json.loads(f.readline())
        if "tokenizer" not in first:
            continue
        name = os.path.basename(path)[:-6]
        shrink(first["tokenizer"])
        seed = compact(dict(first["tokenizer"], config=first["config"]))
        if len(seed) <= 8192:  # what tests/check lets a target read
            write("tokenizer_corpus", name, seed)
        if name == "gpt2":  # found: a small file that asked for much
            write("tokenizer_corpus", "gap", seed.replace(b':7,', b':4194303,', 1))


def checkpoints():
    for folder in sorted(glob.glob(GOLDEN + "/families/*/")):
        name = os.path.basename(folder[:-1])
        with open(folder + "config.json", "rb") as f:
            write("safetensors_corpus", name + "-config", bytes([CONFIG]) + compact(json.load(f)))
    header = compact({"__metadata__": {"format": "pt"},
                      "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                      "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}})
    write("safetensors_corpus", "weights",
          bytes([WEIGHTS]) + struct.pack("<Q", len(header)) + header + bytes(range(32)))
    for settings, shape, suffix in (1, [2, 1], "_scale_inv"), (2, [130, 1], "_scale"):
        size = 4 * shape[0]  # the fuzz target's config.json number `settings` goes with these
        header = compact({"a.weight": {"dtype": "F8_E4M3", "shape": [130, 3],
                                       "data_offsets": [0, 390]},
                          "a.weight" + suffix: {"dtype": "F32", "shape": shape,
                                                "data_offsets": [390, 390 + size]}})
        write("safetensors_corpus", "weights-f8" + suffix.replace("_", "-"),
              bytes([WEIGHTS + KINDS * settings]) + struct.pack("<Q", len(header)) + header +
              bytes(390 + size))


tokenizers()
checkpoints()
