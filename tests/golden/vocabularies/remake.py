#!/usr/bin/env python3
"""Make *.digest: what each vocabulary's own implementation makes of 5,000 texts, as hashes.

    python3 remake.py FOLDER [NAME...]      # FOLDER: of ./fetch --all, and smollm2.gguf and gemma3.gguf in it

Made with Python 3.11, tokenizers 0.23.3, tiktoken 0.14.0, sentencepiece 0.2.3, mistral-common 1.13.1.
tests/unit/vocabularies_test makes the same texts (texts() below, over fragments.json), and the same hashes.

NAME.digest: a line of JSON: "made_by"; "added": added tokens that the texts have in them; "special": those of
even texts are recognised; "texts": FNV-1a (64 bits) of all texts, each with a zero byte behind it.  Then six hex
digits a text: four of its tokens (FNV-1a of 32 bits over each number's four bytes, little-endian, folded to 16)
and two of what they decode to, special tokens left out (of its bytes, folded to 8).
"""
import json
import os
import sys
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = 5000
MASK = (1 << 64) - 1


class Random:
    """splitmix64 (Steele 2014)"""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9e3779b97f4a7c15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ z >> 27) * 0x94d049bb133111eb) & MASK
        return (z ^ z >> 31) % n


def texts(added):
    with open(os.path.join(HERE, "fragments.json"), encoding="utf-8") as f:
        parts = json.load(f)

    def pick(name):
        return parts[name][r.below(len(parts[name]))]

    def code(low, high):
        c = low + r.below(high - low + 1)
        return chr(0xfffd if 0xd800 <= c <= 0xdfff else c)

    for i in range(COUNT):
        r, out = Random(i), []
        kind = r.below(8)
        for _ in range(1 + r.below(16)):
            k = r.below(7) if kind == 7 else kind
            if k == 0:
                out += [pick("words"), pick("separators")]
            elif k == 1:
                low, high = pick("ranges")
                out += [code(low, high) for _ in range(1 + r.below(6))]
            elif k == 2:
                out += [str(r.below(10 ** (1 + r.below(14)))), pick("separators")]
            elif k == 3:
                out += [pick("spaces") * (1 + r.below(4)), pick("tails")]
            elif k == 4:
                out += [added[r.below(len(added))] if added and r.below(2) else pick("words")]
            elif k == 5:
                out += [pick("sentences")]
            else:
                out += [code(1, 0x10ffff)]
        yield "".join(out)


def fnv32(data):
    h = 0x811c9dc5
    for b in data:
        h = ((h ^ b) * 0x01000193) & 0xffffffff
    return h


def fnv64(data, h=0xcbf29ce484222325):
    for b in data:
        h = ((h ^ b) * 0x100000001b3) & MASK
    return h


def digits(ids, decoded):
    a, b = fnv32(b"".join(i.to_bytes(4, "little") for i in ids)), fnv32(decoded.encode())
    return "%04x%02x" % ((a ^ a >> 16) & 0xffff, (b ^ b >> 8 ^ b >> 16 ^ b >> 24) & 0xff)


# Implementations: (made_by, added tokens, encode(text, special) -> ids, decode(ids) -> text)

def by_tokenizers(t):
    import tokenizers
    added = [a.content for a in t.get_added_tokens_decoder().values()]

    def encode(text, special):
        t.encode_special_tokens = not special
        return t.encode(text, add_special_tokens=False).ids

    return ("tokenizers " + tokenizers.__version__, added, encode, lambda ids: t.decode(ids, skip_special_tokens=True))


def by_tiktoken(path, pattern, special, nfc=False):
    import base64
    import tiktoken
    with open(path, "rb") as f:
        ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in f.read().splitlines() if line)}
    special = {t: len(ranks) + i for i, t in enumerate(special)}
    e = tiktoken.Encoding(name="it", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    numbers = set(special.values())

    def encode(text, parse):
        text = unicodedata.normalize("NFC", text) if nfc else text
        return e.encode(text, allowed_special="all") if parse else e.encode_ordinary(text)

    def decode(ids):
        return e.decode([i for i in ids if i not in numbers])

    return "tiktoken " + tiktoken.__version__, list(special), encode, decode


def by_mistral(path):
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    t = Tekkenizer.from_file(path)
    return ("mistral-common " + mistral_common.__version__, ["[INST]", "</s>"],
            lambda text, _: t.encode(text, bos=False, eos=False), lambda ids: t.decode(ids))


def by_sentencepiece(sp, added):
    import sentencepiece
    return "sentencepiece " + sentencepiece.__version__, added, lambda text, _: sp.encode(text), sp.decode


def model_of_gguf(path):
    """SentencePiece's model of a GGUF file's pieces, and its added tokens."""
    import gguf
    from sentencepiece import sentencepiece_model_pb2
    fields = gguf.GGUFReader(path).fields

    def field(name, default=None):
        return fields["tokenizer.ggml." + name].contents() if "tokenizer.ggml." + name in fields else default

    m = sentencepiece_model_pb2.ModelProto()
    m.trainer_spec.model_type = 2
    m.trainer_spec.byte_fallback = True
    m.trainer_spec.unk_id = field("unknown_token_id", 0)
    m.trainer_spec.bos_id, m.trainer_spec.eos_id, m.trainer_spec.pad_id = -1, -1, -1
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = field("add_space_prefix", True)
    m.normalizer_spec.remove_extra_whitespaces = False
    m.normalizer_spec.escape_whitespaces = True
    added = []
    for text, score, kind in zip(field("tokens"), field("scores"), field("token_type")):
        piece = m.pieces.add()
        piece.piece = text.replace(" ", "\u2581") if kind == 4 else text
        piece.score, piece.type = score, kind
        if kind in (3, 4) and len(added) < 40:
            added.append(text)
    return m, added


def from_gguf(path):
    import sentencepiece
    m, added = model_of_gguf(path)
    return by_sentencepiece(sentencepiece.SentencePieceProcessor(model_proto=m.SerializeToString()), added)


def sentencepiece_tokenizer(path, name):
    """The same in tokenizers, with the pipeline of the family's tokenizer.json."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    m = sentencepiece_model_pb2.ModelProto()
    if path.endswith(".gguf"):
        m, _ = model_of_gguf(path)
    else:
        with open(path, "rb") as f:
            m.ParseFromString(f.read())
    vocab = {p.piece: i for i, p in enumerate(m.pieces)}
    merges = []
    for i, p in enumerate(m.pieces):
        if p.type != 1:
            continue
        cuts = [(p.piece[:k], p.piece[k:]) for k in range(1, len(p.piece))
                if p.piece[:k] in vocab and p.piece[k:] in vocab]
        cuts.sort(key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
        merges += [(-p.score, i, k, cut) for k, cut in enumerate(cuts)]
    merges = [cut for *_, cut in sorted(merges)]
    t = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if name == "gemma3":
        t.normalizer = normalizers.Replace(" ", "\u2581")
        t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    else:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens([AddedToken(p.piece, special=True, normalized=False) for p in m.pieces if p.type in (2, 3)])
    t.add_tokens([AddedToken(p.piece, special=False, normalized=True) for p in m.pieces if p.type == 4])
    return t


def byte_level_tokenizer(path, steps):
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    t = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(steps)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == 3])
    return t


def digit_steps():
    from tokenizers import pre_tokenizers
    return [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]


CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
LLAMA3 = (["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
           "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
           "<|eot_id|>", "<|python_tag|>", "<|image|>"] + ["<|reserved_special_token_%d|>" % i for i in range(2, 246)])
SPECIAL = {"tekken": False, "mistral1": False, "mistral3": False, "llama2": False, "gemma3": False}


def implementation(name, folder):
    path = os.path.join(folder, name)
    if name == "llama3":
        return by_tiktoken(path + "/tokenizer.model", CL100K % r"\p{N}{1,3}", LLAMA3)
    if name == "llama4":
        with open(path + "/tokenizer.json", encoding="utf-8") as f:
            root = json.load(f)
        pattern = root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        return by_tiktoken(path + "/tokenizer.model", pattern, [a["content"] for a in root["added_tokens"]])
    if name == "qwen2":
        return by_tiktoken(path + "/qwen.tiktoken", CL100K % r"\p{N}", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                           True)
    if name == "tekken":
        return by_mistral(path + "/tekken.json")
    if name in ("mistral1", "mistral3"):
        import sentencepiece
        return by_sentencepiece(sentencepiece.SentencePieceProcessor(model_file=path + "/tokenizer.model"),
                                ["<s>", "</s>", "[INST]", "[/INST]"])
    if name in ("llama2", "gemma3"):
        return from_gguf(path + ".gguf")
    if name in ("smollm2", "refact", "starcoder"):
        return by_tokenizers(byte_level_tokenizer(path + ".gguf", digit_steps()))
    import tokenizers
    return by_tokenizers(tokenizers.Tokenizer.from_file(path + "/tokenizer.json"))


NAMES = ["gpt2", "llama3", "llama4", "qwen2", "deepseek", "tekken", "mistral1", "mistral3", "smollm2", "gemma3",
         "llama2", "refact", "starcoder"]


def main():
    for name in sys.argv[2:] or NAMES:
        made_by, added, encode, decode = implementation(name, sys.argv[1])
        added, special = added[:40], SPECIAL.get(name, True)
        total, lines, line = 0xcbf29ce484222325, [], ""
        for i, text in enumerate(texts(added)):
            total = fnv64(text.encode() + b"\0", total)
            ids = encode(text, special and i % 2 == 0)
            line += digits(ids, decode(ids))
            if len(line) == 96 or i == COUNT - 1:
                lines, line = lines + [line], ""
        head = {"made_by": made_by, "special": special, "texts": "%016x" % total, "added": added}
        with open(os.path.join(HERE, name + ".digest"), "w", encoding="utf-8") as f:
            f.write(json.dumps(head, separators=(",", ":"), ensure_ascii=False) + "\n" + "\n".join(lines) + "\n")
        print(name, made_by)


if __name__ == "__main__":
    main()
