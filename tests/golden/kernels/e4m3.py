#!/usr/bin/env python3
"""Make e4m3.bin: what torch decodes the 256 codes of float8_e4m3fn to.

Made with Python 3.11, torch 2.15.0.  Usage: e4m3.py > e4m3.bin

256 float32, little-endian, by code; the two that are no numbers are NaN.
"""

import sys

import torch

codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn)
sys.stdout.buffer.write(codes.float().numpy().astype("<f4").tobytes())
