"""Sizes of the published models by their parameter counts, and the GGUF tables by a hand-made permuted file."""

from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, build_like, logits, randomise
from torch import Tensor

from polymodal.backbones import gemma, llama, mistral, qwen
from polymodal.backbones.decoder import DecoderConfig
from polymodal.nn.attention import AttentionConfig
from polymodal.weights.operations import to_interleaved

# Parameters as counted in the published safetensors files (LLaMA 1: in the published pickles).
PUBLISHED: dict[str, tuple[Any, int]] = {
    "llama-7b": (llama, 6_738_415_616),
    "llama-13b": (llama, 13_015_864_320),
    "llama-33b": (llama, 32_528_943_616),
    "llama-65b": (llama, 65_285_660_672),
    "llama-2-7b": (llama, 6_738_415_616),
    "llama-2-70b": (llama, 68_976_648_192),
    "llama-3-8b": (llama, 8_030_261_248),
    "llama-3.1-70b": (llama, 70_553_706_496),
    "llama-3.2-1b": (llama, 1_235_814_400),
    "llama-3.2-3b": (llama, 3_212_749_824),
    "tinyllama-1.1b": (llama, 1_100_048_384),
    "smollm2-135m": (llama, 134_515_008),
    "smollm2-360m": (llama, 361_821_120),
    "smollm2-1.7b": (llama, 1_711_376_384),
    "qwen2-0.5b": (qwen, 494_032_768),
    "qwen2-1.5b": (qwen, 1_543_714_304),
    "qwen2-7b": (qwen, 7_615_616_512),
    "qwen2-72b": (qwen, 72_706_203_648),
    "qwen2.5-3b": (qwen, 3_085_938_688),
    "mistral-7b-v0.1": (mistral, 7_241_732_096),
    "mistral-7b-v0.3": (mistral, 7_248_023_552),
    "mistral-nemo-12b": (mistral, 12_247_782_400),
    "gemma-2b": (gemma, 2_506_172_416),
    "gemma-7b": (gemma, 8_537_680_896),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name: str) -> None:
    family, count = PUBLISHED[name]
    with torch.device("meta"):
        model = family.CONFIGS[name].build()
    assert sum(p.numel() for p in model.parameters()) == count


def as_gguf(config: DecoderConfig, state: dict[str, Tensor], interleaved: bool, shift: float) -> dict[str, Tensor]:
    """What llama.cpp's converter writes, by its own rules: q and k rows paired, Gemma norms plus one."""
    attention, out = config.blocks[0].attention, {}
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    leaves = {
        "attn.q_proj": "attn_q",
        "attn.k_proj": "attn_k",
        "attn.v_proj": "attn_v",
        "attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "attn_norm": "attn_norm",
        "mlp_norm": "ffn_norm",
    }
    for key, tensor in state.items():
        part, _, leaf = key.rpartition(".")
        if part.startswith("blocks."):
            _, number, inner = part.split(".", 2)
            name = f"blk.{number}.{leaves[inner]}.{leaf}"
        else:
            name = f"{names[part]}.{leaf}"
        if interleaved and part.endswith(("q_proj", "k_proj")):
            heads = attention.heads if part.endswith("q_proj") else attention.key_heads
            # Row r of a head of E rows goes to 2r (first half) or 2r - E + 1 (second half).
            tensor = tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        out[name] = tensor + shift if "norm" in part else tensor
    return {**out, "rope_freqs.weight": torch.ones(4)}


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
@torch.no_grad()
def test_gguf_layout(family: str) -> None:
    if family == "gemma":
        attention = AttentionConfig(width=32, heads=4, kv_heads=2, head_dim=12)
        config = gemma.gemma(attention=attention, depth=2, ffn_width=40, vocab_size=50)
        table = gemma.gguf_keys(config)
    else:
        shape = llama.LlamaShape(
            width=32, depth=2, heads=4, kv_heads=2, ffn_width=40, vocab_size=50, qkv_bias=family == "qwen"
        )
        config = shape.config()
        table = llama.gguf_keys(config, interleaved=family == "llama")
    model = config.build().eval()
    randomise(model)
    source = as_gguf(config, model.state_dict(), family == "llama", 1.0 if family == "gemma" else 0.0)
    loaded = build_like(config, table, source)
    ids = torch.randint(0, 50, (1, 9))
    assert (logits(loaded, ids) - logits(model, ids)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_interleaved_rope_on_paired_rows_equals_half_split() -> None:
    """A file in the interleaved layout may also be run as it is, with interleaved rope."""
    from dataclasses import replace

    plain = llama.LlamaShape(width=32, depth=2, heads=4, kv_heads=2, ffn_width=40, vocab_size=50).config()
    model = plain.build().eval()
    randomise(model)
    block = replace(plain.blocks[0], attention=replace(plain.blocks[0].attention, interleaved=True))
    assert plain.rope is not None
    paired = replace(plain, blocks=(block,) * 2, rope=replace(plain.rope, interleaved=True)).build().eval()
    state = model.state_dict()
    for name in state:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            state[name] = to_interleaved(4 if "q_proj" in name else 2)(state[name])
    paired.load_state_dict(state)
    ids = torch.randint(0, 50, (2, 9))
    assert (logits(paired, ids) - logits(model, ids)).abs().max() <= TOLERANCE
