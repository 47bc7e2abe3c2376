#!/usr/bin/env python3
"""Remake families/*.jsonl: small tokenizers with the pipelines of well-known families, and their tokens.

    python3 families.py [FOLDER [TEXTS]]

Made with Python 3.11, tokenizers 0.23.3, sentencepiece 0.2.3, seed below.  The vocabularies are trained here
on the texts of remake.py; normalizer, pre-tokenizer, model settings, post-processor and decoder are those of
the families' tokenizer.json files.  A file's first line has the tokenizer: "tokenizer" and "config" as the two
files of a checkpoint, or "pieces" of SentencePiece, and "pre" where GGUF has a name for it.  Each further line:
  text     what is tokenized
  ids      its tokens, special tokens recognised
  plain    the same with special tokens as letters, if it differs
  decoded  what decoding plain gives, if it is not text
The prefix that the tokenizer adds to a text is "prefix" in the first line.
"""
import json
import os
import random
import re
import sys
import tempfile

import sentencepiece
import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

import remake

SEED = 20261122
COUNT = 100
HERE = os.path.dirname(os.path.abspath(__file__))
SUFFIXES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s+(?!\S)|\s+"


def cl100k(numbers):
    return SUFFIXES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + SPACES


def o200k(suffixes, numbers):
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    return (r"[^\r\n\p{L}\p{N}]?" + upper + "*" + lower + "+" + suffixes + r"|[^\r\n\p{L}\p{N}]?" + upper + "+" +
            lower + "*" + suffixes + "|" + numbers + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + SPACES)


DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|" + SPACES)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def pres(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


def begins_with(token, ident):
    return {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [ident], "tokens": [token]}}}


def added(ident, content, special=True, **more):
    return {"id": ident, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special, **more}


ESCAPE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
PREPEND = {"type": "Prepend", "prepend": "\u2581"}
UNESCAPE = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def norms(*steps):
    return {"type": "Sequence", "normalizers": list(steps)}


def decoders(*steps):
    return {"type": "Sequence", "decoders": list(steps)}


def train_bytes(size, corpus, steps):
    """Merges of a byte-level vocabulary, trained within the pieces of the family's own pre-tokenizer."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = Tokenizer.from_str(json.dumps(assemble(None, steps, {"type": "BPE", "vocab": {}, "merges": []},
                                                             None, None, []))).pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=256,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(corpus, trainer)
    model = json.loads(t.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def train_characters(size, corpus):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=300))
    model = json.loads(t.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def assemble(normalizer, pre, model, post, decoder, tokens):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def bpe(tokens, merges, pairs=True, **more):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(tokens)},
            "merges": merges if pairs else [" ".join(m) for m in merges], **more}


def byte_family(corpus, steps, size=900, normalizer=None, special=CHATML, user=(), bos=None, pairs=True, flags=None,
                **more):
    tokens, merges = train_bytes(size, corpus, steps)
    marks = [added(len(tokens) + i, c, True, **(flags or {})) for i, c in enumerate(special)]
    marks += [added(len(tokens) + len(marks) + i, c, False) for i, c in enumerate(user)]
    post = byte_level() if bos is None else {"type": "Sequence", "processors": [
        byte_level(), begins_with(special[bos], len(tokens) + bos)]}
    config = {"bos_token": None if bos is None else {"content": special[bos], "lstrip": False},
              "eos_token": special[-1]}
    return assemble(normalizer, steps, bpe(tokens, merges, pairs, **more), post, byte_level(), marks), config


def character_family(corpus, normalizer, pre, decoder, user=(), size=700, fallback=True, flags=None, bos=True):
    tokens, merges = train_characters(size, corpus)
    head = ["<unk>", "<s>", "</s>"]
    head += list(user) + (["<0x%02X>" % b for b in range(256)] if fallback else [])
    vocab = head + [t for t in tokens if t not in head]
    marks = [added(i, c, True) for i, c in enumerate(head[:3])]
    marks += [added(3 + i, c, False, **(flags or {})) for i, c in enumerate(user)]
    model = bpe(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=fallback)
    return (assemble(normalizer, pre, model, begins_with("<s>", 1) if bos else None, decoder, marks),
            {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None})


def unigram_family(corpus, fallback):
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    head = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if fallback else [])
    t.train_from_iterator([re.sub(r"[^\x20-\u024f]", "", c) for c in corpus],
                          trainers.UnigramTrainer(vocab_size=700 + len(head), show_progress=False,
                                                  special_tokens=head, unk_token="<unk>"))
    model = json.loads(t.to_str())["model"]
    model["byte_fallback"] = fallback
    pre = dict(METASPACE, prepend_scheme="always", split=True)
    decoder = decoders(*UNESCAPE, STRIP) if fallback else {"type": "Metaspace", "replacement": "\u2581",
                                                           "prepend_scheme": "always", "split": True}
    return (assemble({"type": "NFKC"}, pre, model, begins_with("<s>", 1), decoder,
                     [added(i, c, True) for i, c in enumerate(head[:3])]),
            {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def strange(corpus):
    """What no family has all at once: every behaviour and flag."""
    ts = {}
    steps = pres(split(r"\p{P}", "MergedWithNext"), split("a", "MergedWithPrevious", kind="String"),
                 split(r"[\p{Lu}]+|\d", "Contiguous"), {"type": "Digits", "individual_digits": False},
                 split(r"\S+\s*", "Removed", invert=True), byte_level(True, True))
    t, c = byte_family(corpus, steps, 500, norms({"type": "NFKC"}, {"type": "Strip", "strip_left": True,
                                                                    "strip_right": True},
                                                 {"type": "Replace", "pattern": {"Regex": r"(?:fo)+x"},
                                                  "content": "hen"}), pairs=False)
    n = len(t["model"]["vocab"]) + 3
    t["added_tokens"] += [added(n, "jagen", False, single_word=True), added(n + 1, "[L]", True, lstrip=True),
                          added(n + 2, "[R]", True, rstrip=True), added(n + 3, "quick", False, normalized=True),
                          added(n + 4, " x ", False)]
    ts["strange_bytes"] = (t, c, None)
    t, c = character_family(corpus, {"type": "NFD"},
                            pres({"type": "WhitespaceSplit"}, dict(METASPACE, prepend_scheme="always", split=True)),
                            {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
                            user=["de", "the"], fallback=False, flags={"normalized": True, "single_word": True})
    t["model"]["fuse_unk"] = False
    ts["strange_words"] = (t, c, None)
    t, c = character_family(corpus, None, dict(METASPACE, prepend_scheme="first", split=True),
                            {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
                            fallback=False)
    ts["strange_first"] = (t, c, None)
    return ts


def families(corpus):
    llama3 = pres(split(cl100k(r"\p{N}{1,3}")), byte_level())
    qwen2 = pres(split(cl100k(r"\p{N}")), byte_level())
    tool = ["<think>", "</think>", "<tool_call>"]
    deepseek = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
    made = {
        "qwen2": (*byte_family(corpus, qwen2, normalizer={"type": "NFC"}, user=tool, pairs=False), "qwen2"),
        "llama3": (*byte_family(corpus, llama3, special=["<|begin_of_text|>", "<|eot_id|>"], bos=0,
                                ignore_merges=True), "llama-bpe"),
        "smollm3": (*byte_family(corpus, llama3, user=tool), "smaug-bpe"),
        "tekken": (*byte_family(corpus, pres(split(o200k("", r"\p{N}")), byte_level()),
                                special=["<s>", "</s>", "[INST]", "[/INST]"], bos=0, ignore_merges=True), "tekken"),
        "o200k": (*byte_family(corpus, pres(split(o200k(SUFFIXES + "?", r"\p{N}{1,3}")), byte_level()),
                               special=["<|endoftext|>", "<|user|>", "<|end|>"], flags={"rstrip": True}), None),
        "gpt4o": (*byte_family(corpus, pres(split(o200k(SUFFIXES + "?", r"\p{N}{1,3}")), byte_level())), "gpt-4o"),
        "granite": (*byte_family(corpus, pres({"type": "Digits", "individual_digits": True}, byte_level(True))),
                    "refact"),
        "gpt2": (*byte_family(corpus, byte_level(True)), "gpt-2"),
        "deepseek_v3": (*byte_family(corpus, pres(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                                                  split(DEEPSEEK), byte_level()),
                                     normalizer=norms(), special=deepseek, bos=0), "deepseek-v3"),
        "deepseek_qwen": (*byte_family(corpus, qwen2, normalizer=norms(), special=deepseek, bos=0),
                          "deepseek-r1-qwen"),
        "llama2": (*character_family(corpus, norms(PREPEND, ESCAPE), None, decoders(*UNESCAPE, STRIP)), None),
        "mistral": (*character_family(corpus, None, METASPACE, decoders(*UNESCAPE, STRIP)), None),
        "phi3": (*character_family(corpus, norms(PREPEND, ESCAPE), None, decoders(*UNESCAPE, STRIP),
                                   user=["<|user|>", "<|end|>"], flags={"rstrip": True}), None),
        "gemma": (*character_family(corpus, ESCAPE, split(" ", "MergedWithPrevious", kind="String"),
                                    decoders(*UNESCAPE), user=["\n" * k for k in range(1, 6)] +
                                    ["\u2581" * k for k in range(2, 6)] + ["\t", "\t\t", "<table>", "[multimodal]"]),
                  None),
    }
    made["unigram"] = (*unigram_family(corpus, False), None)
    made["unigram_bytes"] = (*unigram_family(corpus, True), None)
    made.update(strange(corpus))
    return made


def train_sentencepiece(corpus, prefix):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=path, model_type="bpe", vocab_size=1400, num_threads=1,
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=prefix, split_digits=True, allow_whitespace_only_pieces=True, character_coverage=0.98,
            max_sentence_length=10000, minloglevel=2, treat_whitespace_as_suffix=False,
            user_defined_symbols=["<table>", "\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "[multimodal]"],
            hard_vocab_limit=False)
        return sentencepiece.SentencePieceProcessor(model_file=path + ".model")


def pieces_of(sp):
    """As llama.cpp's converter writes them; numbers are those of token_type."""
    out = []
    for i in range(sp.get_piece_size()):
        kind = 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 5 if sp.is_unused(i) else 1
        piece = sp.id_to_piece(i)
        if kind == 1 and (piece in ("<table>", "[multimodal]") or piece.strip("\n") == "" or
                          piece in ("\u2581\u2581", "\u2581\u2581\u2581")):
            kind, piece = 4, piece.replace("\u2581", " ")
        out.append([piece, sp.get_score(i), kind])
    return out


def texts_of(count, special):
    rng = random.Random(SEED)
    words = sorted(w for w in "".join(remake.SENTENCES[4:40]).split(" ") if 0 < len(w) < 20)
    words += ["de", "jagen", "quick", "[L]", "[R]", "fox", " x ", "the", "\ufb01", "e\u0301", "<0x0A>", "\u2581", "\u2581\u2581x", "Hello", "don't"]
    texts = [t for t in dict.fromkeys(remake.SENTENCES) if "\0" not in t and len(t) < 500]
    texts = [t for i, t in enumerate(texts) if i % 2 == 0 or count > 1000]
    while len(texts) < count:
        text = remake.random_text(rng, words, special).replace("\0", "")
        if text not in texts:
            texts.append(text)
    return texts


def dump(out, row):
    out.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")


def write_json_family(path, tokenizer, config, pre, count):
    t = Tokenizer.from_str(json.dumps(tokenizer))
    special = [a["content"] for a in tokenizer["added_tokens"]]
    prefix = t.encode("", add_special_tokens=True).ids
    with open(path, "w", encoding="utf-8") as out:
        dump(out, {"made_by": "tokenizers %s" % tokenizers.__version__, "pre": pre, "prefix": prefix,
                   "config": config, "tokenizer": tokenizer})
        for text in texts_of(count, special):
            row = {"text": text, "ids": t.encode(text, add_special_tokens=False).ids}
            assert t.encode(text).ids == prefix + row["ids"]
            t.encode_special_tokens = True
            plain = t.encode(text, add_special_tokens=False).ids
            t.encode_special_tokens = False
            if plain != row["ids"]:
                row["plain"] = plain
            decoded = t.decode(plain, skip_special_tokens=True)
            if decoded != text:
                row["decoded"] = decoded
            dump(out, row)


def write_sentencepiece(path, sp, prefix, count):
    with open(path, "w", encoding="utf-8") as out:
        dump(out, {"made_by": "sentencepiece %s" % sentencepiece.__version__, "prefix": [1],
                   "add_space_prefix": prefix, "pieces": pieces_of(sp)})
        for text in texts_of(count, ["<table>", "\n\n", "   ", "[multimodal]"]):
            row = {"text": text, "ids": sp.encode(text)}
            decoded = sp.decode(row["ids"])
            if decoded != text:
                row["decoded"] = decoded
            dump(out, row)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "families")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else COUNT
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(SEED)
    words = sorted(w for w in "".join(remake.SENTENCES[4:40]).split(" ") if 0 < len(w) < 20)
    corpus = [t.replace("\0", "") for t in remake.SENTENCES] * 3
    corpus += [remake.random_text(rng, words, ["the"]).replace("\0", "") for _ in range(1500)]
    for name, (tokenizer, config, pre) in families(corpus).items():
        write_json_family(os.path.join(folder, name + ".jsonl"), tokenizer, config, pre, count)
    lines = [re.sub(r"[\r\n\0]", " ", t) for t in remake.SENTENCES[3:42] if t.strip()] * 4
    for prefix in (True, False):
        name = "sentencepiece_%s.jsonl" % ("prefix" if prefix else "plain")
        write_sentencepiece(os.path.join(folder, name), train_sentencepiece(lines, prefix), prefix, count)


if __name__ == "__main__":
    main()
