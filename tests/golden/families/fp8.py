#!/usr/bin/env python3
"""Make the tiny FP8 checkpoints, and what transformers' forward pass gives for them.

    python3 -m venv v && v/bin/pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 numpy \\
        compressed-tensors==0.20.0
    v/bin/python fp8.py             # in this folder

Random weights as remake.py makes them (seed: 100 and the place in FORMS), times a factor for each
tile of 128 x 128, so that no tile's scale does for another.  Linear layers are stored as e4m3 codes
and scales: of tiles, as transformers' "fp8" has them; of rows, as compressed-tensors does; of whole
tensors, with scales for activations that nobody here needs.  NAME.golden (see remake.py) are the
logits of transformers in float32 on what the codes decode to.  That this is what the formats mean is
checked against what transformers and the compressed-tensors package decode, tensor by tensor.

No dimension is a multiple of 128; some modules are left in bfloat16, and say so.
"""
import json
import os
import random
import shutil
import tempfile

import compressed_tensors
import torch
import transformers
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

import remake

COMMON = dict(remake.COMMON, hidden_size=136, intermediate_size=144, num_hidden_layers=1,
              num_attention_heads=2, num_key_value_heads=1, head_dim=72, tie_word_embeddings=True)
BLOCK = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
         "weight_block_size": [128, 128]}
TENSOR = {"quant_method": "fp8", "activation_scheme": "static"}
DYNAMIC = {"actorder": None, "block_structure": None, "dynamic": True, "group_size": None,
           "num_bits": 8, "observer": None, "observer_kwargs": {}, "strategy": "token",
           "symmetric": True, "type": "float"}


def compressed(strategy, block):
    weights = dict(DYNAMIC, dynamic=False, observer="minmax", strategy=strategy,
                   block_structure=block)
    return {"quant_method": "compressed-tensors", "format": "float-quantized",
            "quantization_status": "compressed", "kv_cache_scheme": None, "sparsity_config": {},
            "transform_config": {}, "global_compression_ratio": None,
            "version": compressed_tensors.__version__,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                          "input_activations": DYNAMIC,
                                          "output_activations": None}}}


# name: class, fields, quantization, how scales are stored, modules that stay plain.
FORMS = [
    ("qwen3-f8-block", "Qwen3", dict(num_hidden_layers=2), BLOCK, "f32",
     ["lm_head", "model.layers.1.mlp.down_proj"]),
    ("llama-f8-channel", "Llama", dict(tie_word_embeddings=False),
     compressed("channel", None), "bf16", ["lm_head"]),
    ("llama-f8-tensor", "Llama", dict(), TENSOR, "f32", ["lm_head", "model.layers.0.self_attn.k_proj"]),
    ("phi3-f8-block", "Phi3", dict(head_dim=None), compressed("block", [128, 128]), "bf16", ["lm_head"]),
    ("qwen3moe-f8-block", "Qwen3Moe", dict(num_experts=3, num_experts_per_tok=2,
                                           moe_intermediate_size=40, norm_topk_prob=True), BLOCK,
     "f32", ["lm_head", "model.layers.0.mlp.gate"]),
]


def tile_of(quantization, shape):
    """Rows and columns that share a scale."""
    if "config_groups" in quantization:
        weights = quantization["config_groups"]["group_0"]["weights"]
        return weights["block_structure"] or (1, shape[1])
    return quantization.get("weight_block_size") or tuple(shape)


def spread(scale, tile, shape):
    return scale.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)[:shape[0], :shape[1]]


def quantize(w, tile, dtype):
    """Codes, scales, and what they decode to."""
    down, across = -(-w.shape[0] // tile[0]), -(-w.shape[1] // tile[1])
    scale = torch.stack([torch.stack([
        w[i * tile[0]:(i + 1) * tile[0], j * tile[1]:(j + 1) * tile[1]].abs().max()
        for j in range(across)]) for i in range(down)]) / 448
    scale = scale.to(dtype)
    all = spread(scale.float(), tile, w.shape)
    codes = (w / all).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, scale, codes.float() * all


def store(state, quantization, dtype, plain):
    """(tensors of the file, the same tensors decoded)"""
    stored, decoded = {}, {}
    blocks = quantization.get("weight_block_size")
    for name, w in state.items():
        module = name.removesuffix(".weight")
        if w.ndim != 2 or "proj" not in name or module in plain:
            stored[name] = w.to(torch.bfloat16)
            decoded[name] = stored[name].float()
            continue
        tile = tile_of(quantization, w.shape)
        w = w.float() * spread(torch.rand(-(-w.shape[0] // 128), -(-w.shape[1] // 128)) + 0.5,
                               (128, 128), w.shape)
        codes, scale, decoded[name] = quantize(w, tile, dtype)
        check(name, quantization, codes, scale, decoded[name])
        stored[name] = codes
        if quantization is TENSOR:
            stored[name + "_scale"] = scale.reshape(())
            stored[module + ".input_scale"] = torch.tensor(0.01)
        else:
            stored[name + ("_scale_inv" if blocks else "_scale")] = scale
    return stored, decoded


def check(name, quantization, codes, scale, decoded):
    """What the packages make of the same codes and scales."""
    if "config_groups" in quantization:
        args = QuantizationArgs(**quantization["config_groups"]["group_0"]["weights"])
        theirs = dequantize(codes, scale.float(), args=args, dtype=torch.float32)
    else:
        theirs = _dequantize_fp8_weight(codes, scale if scale.numel() > 1 else scale.reshape(()),
                                        quantization.get("weight_block_size"), torch.float32)
    assert torch.equal(theirs, decoded), name


def main():
    for seed, (name, cls, fields, quantization, dtype, plain) in enumerate(FORMS, 100):
        torch.manual_seed(seed)
        fields = {k: v for k, v in {**COMMON, **fields}.items() if k != "head_dim" or v}
        config = getattr(transformers, cls + "Config")(**fields)
        kind = getattr(transformers, cls + "ForCausalLM")
        model = kind._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        remake.fill(model, cls, torch.float32)
        shutil.rmtree(name, ignore_errors=True)
        with tempfile.TemporaryDirectory() as plain_folder:
            model.save_pretrained(plain_folder)
            file = os.path.join(plain_folder, "model.safetensors")
            stored, decoded = store(load_file(file), quantization, remake.DTYPES[dtype], plain)
            save_file(decoded, file, metadata={"format": "pt"})
            model = kind.from_pretrained(plain_folder, attn_implementation="eager",
                                         dtype=torch.float32).eval()
            os.mkdir(name)
            with open(os.path.join(plain_folder, "config.json")) as f:
                c = json.load(f)
        rng = random.Random(seed)
        prompt = [rng.randrange(3, config.vocab_size) for _ in range(remake.PROMPT)]
        remake.golden(name + ".golden", model, config.max_position_embeddings, prompt)
        c["dtype"] = "bfloat16"
        c["quantization_config"] = dict(quantization)
        key = "ignore" if "config_groups" in quantization else "modules_to_not_convert"
        c["quantization_config"][key] = plain
        with open(os.path.join(name, "config.json"), "w") as f:
            json.dump(c, f, indent=1, sort_keys=True)
            f.write("\n")
        save_file(stored, os.path.join(name, "model.safetensors"), metadata={"format": "pt"})
        os.chmod(os.path.join(name, "model.safetensors"), 0o644)
        print(name)


if __name__ == "__main__":
    main()
