"""The names of llama.cpp's files -> those of the transformers library, as key tables.

    token_embd, blk.{}.attn_q ...      -> model.embed_tokens, model.layers.{}.self_attn.q_proj ...     language models
    v.blk.{}.attn_q ..., mm.0, mm.2    -> vision_tower.vision_model..., multi_modal_projector...       LLaVA's mmproj
    v.blk.{}.attn_q ..., mm.0, mm.2    -> visual.blocks.{}.attn.qkv ..., visual.merger...              Qwen2-VL's mmproj

Source: gguf-py/gguf/{constants,tensor_mapping}.py, convert_hf_to_gguf.py and the older converters of tools/mtmd in
llama.cpp.

Traps: architecture "llama" orders the rows of q and k for rope on neighbouring pairs, qwen2 keeps the hub's order;
files of the older mmproj converters call the two linears of a block by each other's names (`swapped`), which only their
shapes tell; the class token of an older mmproj has lost its name's `.weight`; Qwen2-VL's kernel over two frames lies in
two tensors.
"""

from __future__ import annotations

from polymodal.backbones import llama
from polymodal.weights.keytable import KeyTable, Row, drop, fuse, rename
from polymodal.weights.operations import Unsqueeze, to_half_split

_HUB = {ours: hub for hub, ours in llama.HF_NAMES.items() if ours is not None} | {"lm_head.weight": "lm_head.weight"}


def text_keys(heads: int, kv_heads: int, interleaved: bool) -> KeyTable:
    """A language model's names.  interleaved: q and k are ordered for rope on neighbouring pairs."""
    rows: list[Row] = []
    for theirs, ours in {**llama.GGUF_NAMES, "output.weight": "lm_head.weight"}.items():
        rows.append(drop(theirs) if ours is None else rename(theirs, _HUB[ours]))
    for name, count in (("q", heads), ("k", kv_heads)):
        order = (to_half_split(count),) if interleaved else ()
        for leaf in ("weight", "bias"):
            hub = f"model.layers.{{}}.self_attn.{name}_proj.{leaf}"
            rows.append(rename(f"blk.{{}}.attn_{name}.{leaf}", hub, *order))
    return KeyTable(tuple(rows))


def _pairs(names: dict[str, str]) -> list[Row]:
    """Weight and bias of each."""
    return [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in names.items() for leaf in ("weight", "bias")]


def _linears(swapped: bool) -> dict[str, str]:
    up, down = ("ffn_down", "ffn_up") if swapped else ("ffn_up", "ffn_down")
    return {up: "mlp.fc1", down: "mlp.fc2"}


def llava_keys(swapped: bool) -> KeyTable:
    """An mmproj of CLIP and two linears, under the names of LlavaForConditionalGeneration."""
    tower, block = "vision_tower.vision_model", "vision_tower.vision_model.encoder.layers.{}"
    inside = {
        "ln1": "layer_norm1", "ln2": "layer_norm2", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_out": "self_attn.out_proj", **_linears(swapped),
    }  # fmt: skip
    return KeyTable(
        (
            rename("v.class_embd", f"{tower}.embeddings.class_embedding"),
            rename("v.class_embd.weight", f"{tower}.embeddings.class_embedding"),
            rename("v.patch_embd.weight", f"{tower}.embeddings.patch_embedding.weight"),
            rename("v.position_embd.weight", f"{tower}.embeddings.position_embedding.weight"),
            *_pairs({"v.pre_ln": f"{tower}.pre_layrnorm"}),  # spelled so on the hub
            *_pairs({f"v.blk.{{}}.{a}": f"{block}.{b}" for a, b in inside.items()}),
            drop("v.post_ln.weight"),
            drop("v.post_ln.bias"),
            *_pairs({"mm.0": "multi_modal_projector.linear_1", "mm.2": "multi_modal_projector.linear_2"}),
        )
    )


def qwen2_vl_keys(swapped: bool) -> KeyTable:
    """An mmproj of Qwen2-VL's encoder and merger, under the published names of Qwen2VLForConditionalGeneration."""
    block = "visual.blocks.{}"
    thirds = [
        fuse([f"v.blk.{{}}.attn_{name}.{leaf}" for name in "qkv"], f"{block}.attn.qkv.{leaf}")
        for leaf in ("weight", "bias")
    ]
    inside = {"ln1": "norm1", "ln2": "norm2", "attn_out": "attn.proj", **_linears(swapped)}
    frames = ("v.patch_embd.weight", "v.patch_embd.weight.1")
    kernel = fuse(frames, "visual.patch_embed.proj.weight", dim=2, each=[[Unsqueeze(2)]] * 2)
    merger = {"v.post_ln": "ln_q", "mm.0": "mlp.0", "mm.2": "mlp.2"}
    return KeyTable(
        (
            kernel,
            *thirds,
            *_pairs({f"v.blk.{{}}.{a}": f"{block}.{b}" for a, b in inside.items()}),
            *_pairs({a: f"visual.merger.{b}" for a, b in merger.items()}),
        )
    )
