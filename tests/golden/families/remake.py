#!/usr/bin/env python3
"""Make the tiny checkpoints of each family, and what transformers' forward pass gives for them.

    python3 -m venv v && v/bin/pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 numpy
    v/bin/python remake.py          # in this folder

Each NAME/ is a checkpoint with random weights (seed: the family's place in FAMILIES), sized to have
what the family has: groups of heads, windows shorter than the prompt, ropes stretched beyond their
original length.  Weights are rounded to the stored type first; transformers computes in float32 with
its eager attention.  NAME.gguf holds the same tensors under GGUF's names, as the ggml project's
converter lays them out, and shares NAME.golden.  q2-q3-k.gguf has random blocks of the types that
models of 2 and 3 bits a weight are mixed of, which the gguf package decodes for transformers.

NAME.golden, lines: `# versions`; `c N` the context to serve; `p t...` the prompt; `a t:logit...` the
highest logit of each position; `l P logit...` all logits of position P.
"""
import json
import math
import os
import random
import shutil

import gguf
import numpy
import torch
import transformers
from importlib.metadata import version

PROMPT = 70
LOGITS_AT = (0, 1, 17, 40, PROMPT - 1)
COMMON = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, vocab_size=272, max_position_embeddings=128,
              bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False)
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=32)
LONGROPE = dict(rope_type="longrope", rope_theta=500.0, partial_rotary_factor=0.75,
                short_factor=[1.0, 1.1, 1.3, 1.7, 2.0, 2.5],
                long_factor=[1.0, 1.5, 2.5, 4.0, 7.0, 9.5], original_max_position_embeddings=32)

# name: class, fields, how it is stored, whether as GGUF too.  "old": config.json in the form of
# transformers 4, which most checkpoints have.
FAMILIES = [
    ("llama3", "Llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True), "bf16", True, "old"),
    ("mistral", "Mistral", dict(sliding_window=16, head_dim=12), "bf16", True, "old"),
    ("qwen2", "Qwen2", dict(sliding_window=16, use_sliding_window=True, max_window_layers=1,
                            tie_word_embeddings=True), "f16", False, "old"),
    ("qwen2-yarn", "Qwen2", dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=32)),
     "bf16", True, "new"),
    ("qwen3", "Qwen3", dict(head_dim=16), "bf16", True, "new"),
    ("gemma2", "Gemma2", dict(num_hidden_layers=4, head_dim=12, sliding_window=16,
                              query_pre_attn_scalar=20, attn_logit_softcapping=5.0,
                              final_logit_softcapping=8.0, tie_word_embeddings=True),
     "bf16", False, "new"),
    ("gemma2-capped", "Gemma2", dict(num_hidden_layers=2, head_dim=12, sliding_window=16,
                                     query_pre_attn_scalar=12, tie_word_embeddings=True,
                                     attn_logit_softcapping=6.0, final_logit_softcapping=10.0),
     "f32", True, "new"),
    ("gemma3", "Gemma3Text", dict(num_hidden_layers=6, head_dim=12, sliding_window=16,
                                  query_pre_attn_scalar=12, tie_word_embeddings=True,
                                  num_key_value_heads=1, rope_parameters=dict(
                                      full_attention=dict(rope_type="linear", rope_theta=5000.0,
                                                          factor=8.0),
                                      sliding_attention=dict(rope_type="default",
                                                             rope_theta=10000.0))),
     "bf16", True, "old"),
    ("phi3", "Phi3", dict(num_attention_heads=2, num_key_value_heads=1,
                          original_max_position_embeddings=32, rope_parameters=LONGROPE),
     "bf16", True, "old"),
    ("phi3-window", "Phi3", dict(sliding_window=20), "bf16", True, "new"),
    ("smollm3", "SmolLM3", dict(num_hidden_layers=5, rope_parameters=dict(
        rope_type="default", rope_theta=5000.0), tie_word_embeddings=True), "bf16", True, "new"),
    ("olmo2", "Olmo2", dict(), "bf16", True, "old"),
    ("granite", "Granite", dict(embedding_multiplier=6.0, attention_multiplier=0.2,
                                residual_multiplier=0.35, logits_scaling=3.0), "bf16", True, "old"),
    ("qwen3moe", "Qwen3Moe", dict(head_dim=16, num_experts=6, num_experts_per_tok=2,
                                  moe_intermediate_size=24, norm_topk_prob=True), "bf16", True,
     "new"),
    ("qwen3moe-mixed", "Qwen3Moe", dict(head_dim=16, num_experts=5, num_experts_per_tok=3,
                                        moe_intermediate_size=24, norm_topk_prob=False,
                                        mlp_only_layers=[1]), "bf16", False, "new"),
]
# Matrices of the quantized file; the others are Q2_K.
QUANTIZED = dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64,
                 num_key_value_heads=1, tie_word_embeddings=True)
THREE_BITS = ("v_proj", "down_proj", "embed_tokens")
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def fill(model, cls, dtype):
    """Random weights that make attention peaked and every part matter, as stored."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(0.2 * torch.randn_like(p) + (0 if cls.startswith("Gemma") else 1))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            elif "embed_tokens" in name:
                p.copy_(torch.randn_like(p) / (6 if cls.startswith("Gemma") else 1))
            else:
                p.copy_(1.5 * torch.randn_like(p) / math.sqrt(p.shape[-1]))
            p.copy_(p.to(dtype).float())


def old_config(path, cls):
    """config.json as transformers 4 wrote it."""
    with open(path) as f:
        c = json.load(f)
    rope = c.pop("rope_parameters")
    c.pop("layer_types", None)
    c["torch_dtype"] = c.pop("dtype")
    if cls == "Gemma3Text":
        local = rope["sliding_attention"]
        rope = rope["full_attention"]
        c["rope_local_base_freq"] = local["rope_theta"]
        c.pop("_sliding_window_pattern", None)
        c["sliding_window_pattern"] = 6
    c["rope_theta"] = rope.pop("rope_theta")
    part = rope.pop("partial_rotary_factor", None)
    if part is not None:
        c["partial_rotary_factor"] = part
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None
    if kind == "longrope":
        rope.pop("original_max_position_embeddings", None)
        c["rope_scaling"] = {"type": kind, **rope}
    elif kind != "default":
        c["rope_scaling"] = {"rope_type": kind, **rope}
    with open(path, "w") as f:
        json.dump(c, f, indent=1, sort_keys=True)
        f.write("\n")


def golden(path, model, context, prompt):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float()
    assert torch.isfinite(logits).all()
    with open(path, "w") as f:
        f.write(f"# torch {torch.__version__}, transformers {transformers.__version__}, gguf "
                f"{version('gguf')}; made by remake.py\n")
        f.write(f"c {context}\np " + " ".join(map(str, prompt)) + "\n")
        top = logits.max(-1)
        f.write("a " + " ".join(f"{t}:{v:.5f}" for t, v in
                                zip(top.indices.tolist(), top.values.tolist())) + "\n")
        for at in LOGITS_AT:
            if at < len(prompt):
                f.write(f"l {at} " + " ".join(f"{v:.5f}" for v in logits[at].tolist()) + "\n")


# GGUF

GGUF_ARCH = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3",
             "Qwen3Moe": "qwen3moe", "Gemma2": "gemma2", "Gemma3Text": "gemma3", "Phi3": "phi3",
             "SmolLM3": "smollm3", "Olmo2": "olmo2", "Granite": "granite"}
PERMUTED = ("llama", "smollm3", "granite")
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
         "mlp.gate_up_proj": "ffn_up", "mlp.gate": "ffn_gate_inp", "input_layernorm": "attn_norm",
         "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(name, arch):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
             "model.norm.weight": "output_norm.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    if part == "post_attention_layernorm":
        to = "post_attention_norm" if arch in ("gemma2", "gemma3", "olmo2") else "ffn_norm"
    else:
        to = NAMES[part]
    return f"blk.{layer}.{to}.{kind}"


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def gguf_tensors(state, arch, c):
    experts = {}
    for name, w in state.items():
        w = w.float()
        if ".mlp.experts." in name:  # as transformers holds them: [expert][gate, up][width]
            layer, part = name.split(".")[2], name.rsplit(".", 1)[1]
            if part == "gate_up_proj":
                gate, up = w.chunk(2, dim=1)
                experts[f"blk.{layer}.ffn_gate_exps.weight"] = gate
                experts[f"blk.{layer}.ffn_up_exps.weight"] = up
            else:
                experts[f"blk.{layer}.ffn_down_exps.weight"] = w
            continue
        if arch in PERMUTED and name.endswith(("q_proj.weight", "k_proj.weight")):
            w = permute(w, c.num_attention_heads if "q_proj" in name else c.num_key_value_heads)
        if arch.startswith("gemma") and "norm" in name:
            w = w + 1
        yield gguf_name(name, arch), w
    yield from experts.items()


def random_blocks(rng, kind, shape, deviation):
    """Rows of random blocks whose weights lie around 0, about `deviation` wide."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (shape[0], shape[1] // 256, size), dtype=numpy.uint8)
    q2 = kind == gguf.GGMLQuantizationType.Q2_K
    d = deviation * rng.uniform(0.7, 1.3, raw.shape[:2]) / (13.7 if q2 else 42.6)
    fields = {80: d, 82: 1.5 * d} if q2 else {108: d}
    for at, values in fields.items():
        raw[:, :, at:at + 2] = values.astype(numpy.float16)[..., None].view(numpy.uint8)
    return raw.reshape(shape[0], -1)


def quantize(model, seed):
    """Random blocks for the model's matrices, which become what they decode to: {name: (type, rows)}."""
    rng, blocks = numpy.random.default_rng(seed), {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                continue
            kind = (gguf.GGMLQuantizationType.Q3_K if any(t in name for t in THREE_BITS)
                    else gguf.GGMLQuantizationType.Q2_K)
            wide = 1 if "embed_tokens" in name else 1.5 / math.sqrt(p.shape[-1])
            raw = random_blocks(rng, kind, p.shape, wide)
            blocks[gguf_name(name, "qwen3")] = kind, raw
            p.copy_(torch.from_numpy(gguf.quants.dequantize(raw, kind)))
    return blocks


def write_gguf(path, cls, model, dtype, blocks={}):
    c, arch = model.config, GGUF_ARCH[cls]
    w = gguf.GGUFWriter(path, arch)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_vocab_size(c.vocab_size)
    w.add_eos_token_id(2)
    w.add_bos_token_id(1)
    rope = c.rope_parameters
    rope = rope.get("full_attention", rope)
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    extra = {}
    kind = rope["rope_type"]
    if kind == "llama3":
        inv = 1 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2) / head_dim)
        scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](c, "cpu")
        extra["rope_freqs.weight"] = inv / scaled
    elif kind == "longrope":
        original = rope["original_max_position_embeddings"]
        factor = c.max_position_embeddings / original
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(original)))
        extra["rope_factors_long.weight"] = torch.tensor(rope["long_factor"])
        extra["rope_factors_short.weight"] = torch.tensor(rope["short_factor"])
    elif kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    if getattr(c, "attn_logit_softcapping", None):
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if arch == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    if arch == "qwen3moe":
        w.add_expert_count(c.num_experts)
        w.add_expert_used_count(c.num_experts_per_tok)
        w.add_expert_feed_forward_length(c.moe_intermediate_size)
    state = {k: v for k, v in model.state_dict().items()
             if not (k == "lm_head.weight" and c.tie_word_embeddings)}
    for name, t in [*gguf_tensors(state, arch, c), *extra.items()]:
        a = t.contiguous().numpy().astype(numpy.float32)
        if name in blocks:
            kind, raw = blocks[name]
            w.add_tensor(name, raw, raw_dtype=kind)
        elif a.ndim == 1 or dtype == "f32" or name.endswith("gate_inp.weight"):
            w.add_tensor(name, a)
        else:
            raw = (a.view(numpy.uint32) >> 16).astype(numpy.uint16)
            w.add_tensor(name, raw.view(numpy.uint8).reshape(*a.shape[:-1], a.shape[-1] * 2),
                         raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    for seed, (name, cls, fields, dtype, as_gguf, form) in enumerate(FAMILIES, 1):
        torch.manual_seed(seed)
        config = getattr(transformers, cls + "Config")(**{**COMMON, **fields})
        model = getattr(transformers, cls.removesuffix("Text") + "ForCausalLM")._from_config(
            config, attn_implementation="eager", dtype=torch.float32).eval()
        fill(model, cls, DTYPES[dtype])
        rng = random.Random(seed)
        prompt = [rng.randrange(3, config.vocab_size) for _ in range(PROMPT)]
        golden(name + ".golden", model, config.max_position_embeddings, prompt)
        if name == "phi3":  # served within the original length
            golden(name + "-short.golden", model, 32, prompt[:30])
        if as_gguf:
            write_gguf(name + ".gguf", cls, model, dtype)
        shutil.rmtree(name, ignore_errors=True)
        model.to(DTYPES[dtype]).save_pretrained(name)
        for f in os.listdir(name):
            if f not in ("config.json", "model.safetensors"):
                os.remove(os.path.join(name, f))
        os.chmod(os.path.join(name, "model.safetensors"), 0o644)
        if form == "old":
            old_config(os.path.join(name, "config.json"), cls)
        print(name)
    write_quantized("q2-q3-k", len(FAMILIES) + 1)


def write_quantized(name, seed):
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(**{**COMMON, **QUANTIZED})
    model = transformers.Qwen3ForCausalLM._from_config(
        config, attn_implementation="eager", dtype=torch.float32).eval()
    fill(model, "Qwen3", torch.float32)
    blocks = quantize(model, seed)
    rng = random.Random(seed)
    golden(name + ".golden", model, config.max_position_embeddings,
           [rng.randrange(3, config.vocab_size) for _ in range(PROMPT)])
    write_gguf(name + ".gguf", "Qwen3", model, "f32", blocks)
    print(name)


if __name__ == "__main__":
    main()
