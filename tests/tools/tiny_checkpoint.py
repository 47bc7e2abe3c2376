#!/usr/bin/env python3
"""Make a checkpoint folder that can chat out of a tiny random one.

    tiny_checkpoint.py FROM TO [SHARDS [FFN]]

FROM has config.json and model.safetensors.  TO gets them, the latter in SHARDS parts with an index
if there are more than one, and a tokenizer of single bytes with a chat template.  With FFN its
feed-forward parts are that wide and zero.
"""
import json
import os
import struct
import sys


def byte_letters():
    """GPT-2's letters for bytes: printable ones stand for themselves."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [b for b in range(256) if b not in plain]
    letters = {b: chr(b) for b in plain}
    letters.update({b: chr(256 + i) for i, b in enumerate(other)})
    return [letters[b] for b in range(256)]


def special(number, content):
    return {"id": number, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True}


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
        json.dump(value, out)


def write_tokenizer(folder):
    names = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]
    vocabulary = {text: i for i, text in enumerate(names + byte_letters())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    write_json(folder, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [special(i, text) for i, text in enumerate(names)],
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary,
                  "merges": []}})
    write_json(folder, "tokenizer_config.json", {
        "bos_token": "<s>", "eos_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 10 ** 30})
    write_json(folder, "generation_config.json", {"bos_token_id": 1, "eos_token_id": [2]})
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as out:
        out.write("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                  "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def write_tensors(path, header, data, names):
    part, kept = {}, b""
    for name in names:
        begin, end = header[name]["data_offsets"]
        part[name] = dict(header[name], data_offsets=[len(kept), len(kept) + end - begin])
        kept += data[begin:end]
    text = json.dumps(part).encode()
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text + kept)


def widen(header, data, ffn):
    """Feed-forward parts of another width; all zero, and together at the data's end."""
    most = 0
    for name, tensor in header.items():
        if ".mlp." in name:
            tensor["shape"][1 if "down_proj" in name else 0] = ffn
            size = {"F32": 4, "F16": 2, "BF16": 2}[tensor["dtype"]]
            length = tensor["shape"][0] * tensor["shape"][1] * size
            tensor["data_offsets"] = [len(data), len(data) + length]
            most = max(most, length)
    return data + bytes(most)


def main():
    source, folder = sys.argv[1:3]
    shards = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    os.makedirs(folder)
    ffn = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    if ffn:
        config["intermediate_size"] = ffn
    write_json(folder, "config.json", config)
    with open(os.path.join(source, "model.safetensors"), "rb") as weights:
        (length,) = struct.unpack("<Q", weights.read(8))
        header = json.loads(weights.read(length))
        data = weights.read()
    if ffn:
        data = widen(header, data, ffn)
    names = sorted(name for name in header if name != "__metadata__")
    where = {}
    for i in range(shards):
        name = "model.safetensors"
        if shards > 1:
            name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        write_tensors(os.path.join(folder, name), header, data, names[i::shards])
        where.update({tensor: name for tensor in names[i::shards]})
    if shards > 1:
        write_json(folder, "model.safetensors.index.json", {"weight_map": where})
    write_tokenizer(folder)


main()
