#!/usr/bin/env python3
"""Make dequantize.bin: random blocks of every stored type and what the gguf package decodes them to.

Made with Python 3.11, gguf 0.19.0, numpy 2.x; seed 20261122.  Usage: dequantize.py > dequantize.bin

Records, little-endian: u32 type, u32 elements, the blocks, then `elements` float32.  Quants are random
bytes; the float16 scales are random normal numbers below 1, one block's are subnormal.
"""

import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Type: where its float16 fields lie in a block.
SCALES = {
    T.Q4_0: [0],
    T.Q4_1: [0, 2],
    T.Q5_0: [0],
    T.Q5_1: [0, 2],
    T.Q8_0: [0],
    T.Q4_K: [0, 2],
    T.Q5_K: [0, 2],
    T.Q6_K: [208],
    T.Q2_K: [80, 82],
    T.Q3_K: [108],
}


def blocks_of(rng, dtype, count):
    _, size = GGML_QUANT_SIZES[dtype]
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[dtype]:
        scale = rng.uniform(-1, 1, count).astype(np.float16)
        scale[-1] = np.float16(3e-6)
        raw[:, at : at + 2] = scale.reshape(count, 1).view(np.uint8)
    return raw


def floats_of(rng, dtype):
    values = np.concatenate([rng.normal(0, 1, 28), [0, -0.0, 1e-7, -65504]]).astype(np.float32)
    if dtype == T.F32:
        return values.view(np.uint8)
    if dtype == T.F16:
        return values.astype(np.float16).view(np.uint8)
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def main():
    rng = np.random.default_rng(20261122)
    out = sys.stdout.buffer
    for dtype in (T.F32, T.F16, T.BF16, *SCALES):
        if dtype in SCALES:
            raw = blocks_of(rng, dtype, 2)
            decoded = dequantize(raw, dtype).astype(np.float32).reshape(-1)
        else:
            raw = floats_of(rng, dtype)
            view = {T.F32: np.float32, T.F16: np.float16}.get(dtype)
            decoded = dequantize(raw if view is None else raw.view(view), dtype)
            decoded = decoded.astype(np.float32).reshape(-1)
        out.write(np.array([dtype, decoded.size], dtype="<u4").tobytes())
        out.write(raw.tobytes())
        out.write(decoded.astype("<f4").tobytes())


main()
