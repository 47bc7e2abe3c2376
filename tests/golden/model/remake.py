#!/usr/bin/env python3
"""Remake tokenizer.jsonl: texts of many kinds and their tokens by Hugging Face tokenizers.

    python3 remake.py SmolLM2-135M-Instruct.Q4_1.gguf

Made with Python 3.11, tokenizers 0.23.3, gguf 0.19.0, seed below.  One JSON object a line:
  text    what is tokenized
  ids     SmolLM2's tokens, special tokens recognised
  plain   the same with special tokens as letters, if it differs
  lost    true if decoding ids does not give text back: a byte without a token was left out
  gpt2    lengths in bytes of the pieces by pre-tokenizer gpt-2
  llama   the same by llama-bpe
  ids3    tokens by pre-tokenizer llama-bpe, the first MERGES3 merges and ignore_merges
The first line is an object of the versions and of MERGES3.
"""
import json
import os
import random
import sys

import gguf
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

SEED = 20240607
COUNT = 500
MERGES3 = 2000
ALL_COUNT = 120  # only that many texts have the last three members
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")

SENTENCES = [
    "", " ", "a", "\n", "Hello, world!", "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said we'll go, it's what I'd do; you're 'right', don't 'Tis.",
    "I'M SURE THEY'VE SAID WE'LL GO, IT'S WHAT I'D DO; YOU'RE RIGHT",
    "it\u2019s \u201cquoted\u201d \u2014 and\u2026 so on \u00ab oui \u00bb", "'\u017f long s, 'S, \u212aelvin",
    "Le c\u0153ur d\u00e9\u00e7u mais l'\u00e2me plut\u00f4t na\u00efve, Lou\u00ffs r\u00eava.",
    "Zw\u00f6lf Boxk\u00e4mpfer jagen Viktor quer \u00fcber den gro\u00dfen Sylter Deich.",
    "El veloz murci\u00e9lago hind\u00fa com\u00eda feliz cardillo y kiwi. \u00bfQu\u00e9? \u00a1S\u00ed!",
    "\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a.",
    "\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 \u03c4\u03b7\u03bd \u03c8\u03c5\u03c7\u03bf\u03c6\u03b8\u03cc\u03c1\u03b1 \u03b2\u03b4\u03b5\u03bb\u03c5\u03b3\u03bc\u03af\u03b1.",
    "\u0646\u0635 \u062d\u0643\u064a\u0645 \u0644\u0647 \u0633\u0631 \u0642\u0627\u0637\u0639 \u0648\u0630\u0648 \u0634\u0623\u0646 \u0639\u0638\u064a\u0645 \u0661\u0662\u0663",
    "\u05d3\u05d2 \u05e1\u05e7\u05e8\u05df \u05e9\u05d8 \u05d1\u05d9\u05dd \u05de\u05d0\u05d5\u05db\u05d6\u05d1",
    "\u090b\u0937\u093f\u092f\u094b\u0902 \u0915\u094b \u0938\u0924\u093e\u0928\u0947 \u0935\u093e\u0932\u0947 \u0926\u0941\u0937\u094d\u091f \u0930\u093e\u0915\u094d\u0937\u0938\u094b\u0902 \u0967\u0968\u0969",
    "\u0e40\u0e1b\u0e47\u0e19\u0e21\u0e19\u0e38\u0e29\u0e22\u0e4c\u0e2a\u0e38\u0e14\u0e1b\u0e23\u0e30\u0e40\u0e2a\u0e23\u0e34\u0e10 \u0e51\u0e52\u0e53",
    "\u6211\u80fd\u541e\u4e0b\u73bb\u7483\u800c\u4e0d\u4f24\u8eab\u4f53\u3002\u6625\u7720\u4e0d\u89c9\u6653\uff0c\u5904\u5904\u95fb\u557c\u9e1f\u3002",
    "\u3044\u308d\u306f\u306b\u307b\u3078\u3068 \u3061\u308a\u306c\u308b\u3092\u3001\u30ab\u30bf\u30ab\u30ca\u3068\u6f22\u5b57\u300c\u6771\u4eac\u300d\uff11\uff12\uff13",
    "\ud0a4\uc2a4\uc758 \uace0\uc720\uc870\uac74\uc740 \uc785\uc220\ub07c\ub9ac \ub9cc\ub098\uc57c \ud558\uace0",
    "T\u1ea5t c\u1ea3 m\u1ecdi ng\u01b0\u1eddi sinh ra \u0111\u1ec1u \u0111\u01b0\u1ee3c t\u1ef1 do", "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0531\u0575\u0562 \u1200\u1208\u1210 \u13a0\u13a1 \u1a00 \u2d30",
    "\U0001f600\U0001f680\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea 1\ufe0f\u20e3 \u2764\ufe0f",
    "e\u0301 a\u0308\u0323 n\u0303 o\u0302\u0301 Z\u0351\u036b\u0343\u036aA\u034a\u0363L\u0348G\u033bO\u0321!\u0307\u0322",
    "int main(void)\n{\n\tprintf(\"%d\\n\", 42);\n\treturn 0;\n}\n",
    "def f(x: int = 10) -> str:\n    return f'{x:>08.3f}'  # comment\n\n\nclass A(B): pass\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x''y' ORDER BY 1 DESC;",
    "<html>\r\n  <body class=\"x\">&nbsp;&#8364;</body>\r\n</html>\r\n",
    "curl -sS 'http://localhost:8080/v1/models?x=1&y=2#frag' | jq .data[0].id >/dev/null 2>&1",
    "{\"a\": [1, 2.5e-10, null, true], \"b\": {\"c\": \"\\u00e9\"}}", "#include <stdio.h>\n#define X(a) ((a)+1)\n",
    "fn main() -> Result<(), Box<dyn Error>> { let x = vec![1u8; 1_000]; Ok(()) }",
    "if [ \"$#\" -lt 2 ]; then\n\techo \"usage: $0 A B\" >&2; exit 1\nfi",
    "1234567890 3.14159 1,000,000 0x1F600 1e10 2024-06-07T12:34:56Z +1 (555) 010-9999 v1.2.3",
    "\u00bd\u00b2\u2463\u2167\u0be7\U0001d7d8\U0001f10a\u3007\u4e00 x\u2082 10\u00b3 5\u2044\u2088", " 1  2   3    4\t5\n6 7\n\n8",
    "  leading and trailing  ", "a  b   c    d     e", "\t\ttabs\t \tand \t spaces\t", "a\n\nb\n\n\nc\r\nd\r\re\r\n\r\nf",
    "\u00a0nbsp\u00a0\u00a0two \u00a0mixed\u00a0 x", "\u2003em\u2002en\u2009thin\u200azwsp\u200bword\u2060joiner\ufeffbom\u3000ideographic\u1680ogham",
    "\u2028line\u2029para\u0085nel\u000bvt\u000cff\u180emvs\u205fmmsp\u202fnnbsp", "\u0000\u0001\u0002\u0003\u0004 \u0005\u0006\u0007\u0008\u000e\u001b[0m\u001f\u007f\u0080\u009f",
    "a\u0004b\u0006c th\u0013e x\u0014y\u0016 \u001d\u001d", "\u200f\u202bRTL\u202c\u200e \u00adsoft\u00adhyphen", "\ue000\uf8ff\U000f0000\U0010fffd \ufffd \ufffe\uffff",
    "\U00040000\U000e0001\U000e0100 \U0001f9ff\u0378\u0379", "a" * 1000, "ab" * 700, "x " * 400, " " * 777, "\n" * 300, "\t" * 99 + "x",
    "=" * 500, "-" * 80 + "\n" + "*" * 80, "7" * 300, "\u4e00" * 200, "\U0001f600" * 60, "\u00e9" * 333, "Donaudampfschifffahrtsgesellschaftskapit\u00e4n" * 8,
    "".join(chr(c) for c in range(0x20, 0x7f)), "".join(chr(c) for c in range(0xa0, 0x180)),
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a\u1c89b \ua7cb\U00010d4a\U000143fa\U00016d40 \U0002ebf0\U00031350\u4e2d \U0001e4d0",  # newer letters
    "a\U00010d40\U000116d0 \U00011f50\U0001ccf9 \U0001e4f0x\U0001e5f1 \U00011de0\U00016ff4",  # newer numbers
    "<|endoftext|>", "<|endoftext|><|endoftext|> <|im_end|>x", "a<|im_start|>b <|im_end|> c<repo_name>d<reponame>e<file_sep>f",
    "<|im_start", "<|im_start|", "<|im_start<|im_start|>|>", "<|im_<|im_end|>", "|im_end|> <| im_end |> <|IM_END|>", "<<|im_end|>>", "1<|im_end|>2  <|im_end|>  3",
    "<filename><gh_stars>10<issue_start><issue_comment><issue_closed><jupyter_start><jupyter_text><jupyter_code><jupyter_output><jupyter_script><empty_output>",
]

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\r", "\u00a0", "\u2003", "\u3000", "\u0085", "\u180e", "\u2028", "\u200b", "\u000b", " \n ", "\t\t", "      "]
RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x52f), (0x531, 0x6ff), (0x900, 0xdff),
          (0xe00, 0x11ff), (0x1e00, 0x206f), (0x2070, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3),
          (0xf900, 0xffef), (0x10000, 0x10fff), (0x1d400, 0x1d7ff), (0x1f000, 0x1faff), (0x20000, 0x2a6df), (0, 0x1f)]


def random_text(rng, words, special):
    """One of several kinds: words and punctuation, letters of a script, numbers, white space, all of it."""
    kind = rng.randrange(6)
    out = []
    for _ in range(rng.randint(1, 24)):
        k = rng.randrange(5) if kind == 5 else kind
        if k == 0:
            out.append(rng.choice(words) + rng.choice([" ", " ", ", ", ". ", "\n", "-", "'s ", "_", "("]))
        elif k == 1:
            lo, hi = rng.choice(RANGES)
            out.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 6))))
        elif k == 2:
            out.append(str(rng.randrange(10 ** rng.randint(1, 14))) + rng.choice(["", " ", ".", ",", "  ", "%", "k"]))
        elif k == 3:
            out.append(rng.choice(SPACES) * rng.randint(1, 4) + rng.choice(["", "x", "9", "!", "\u00e9", "\u4e2d"]))
        else:
            out.append(rng.choice(special) if rng.random() < 0.4 else rng.choice(words))
    return "".join(out)


def read_vocabulary(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    return {t: i for i, t in enumerate(tokens)}, merges, [t for t, k in zip(tokens, types) if k == 3]


def make(vocab, merges, special, pre, ignore_merges):
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    return t


def pieces(pre, text):
    """Lengths in bytes of the pieces, which cover the text."""
    ranges = sorted({span for _, span in pre.pre_tokenize_str(text)})
    assert "".join(text[a:b] for a, b in ranges) == text
    return [len(text[a:b].encode()) for a, b in ranges]


def main():
    vocab, merges, special = read_vocabulary(sys.argv[1])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    smollm = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    split3 = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    llama = pre_tokenizers.Sequence([split3, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t = make(vocab, merges, special, smollm, False)
    t3 = make(vocab, merges[:MERGES3], special, llama, True)

    rng = random.Random(SEED)
    words = sorted(w for w in "".join(SENTENCES[4:40]).split(" ") if 0 < len(w) < 20)
    texts = list(dict.fromkeys(SENTENCES))
    while len(texts) < COUNT:
        text = random_text(rng, words, special)
        if text not in texts:
            texts.append(text)

    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer.jsonl"), "w", encoding="utf-8") as out:
        head = {"tokenizers": tokenizers.__version__, "seed": SEED, "merges3": MERGES3}
        out.write(json.dumps(head, separators=(",", ":")) + "\n")
        for i, text in enumerate(texts):
            row = {"text": text, "ids": t.encode(text, add_special_tokens=False).ids}
            t.encode_special_tokens = True
            plain = t.encode(text, add_special_tokens=False).ids
            t.encode_special_tokens = False
            if plain != row["ids"]:
                row["plain"] = plain
            if t.decode(plain, skip_special_tokens=False) != text:
                row["lost"] = True
            if i < ALL_COUNT:
                row["gpt2"] = pieces(gpt2, text)
                row["llama"] = pieces(split3, text)
                row["ids3"] = t3.encode(text, add_special_tokens=False).ids
            out.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
