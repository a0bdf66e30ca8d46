"""The names of diffusers' UNet2DConditionModel -> a UNet."""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.weights.keytable import KeyTable, Row, pair, rename, split
from polymodal.weights.operations import Squeeze


def published_keys(linear: bool = True) -> KeyTable:
    """linear: the projections around attention are linears (Stable Diffusion 2), else convolutions of 1 x 1."""
    rows: list[Row] = [
        *pair("conv_in", "conv_in"), *pair("time_embedding.linear_1", "time_in"),
        *pair("time_embedding.linear_2", "time_out"), *pair("conv_norm_out", "norm_out"), *pair("conv_out", "conv_out"),
        *pair("down_blocks.{}.downsamplers.0.conv", "downs.{}.resize"),
        *pair("up_blocks.{}.upsamplers.0.conv", "ups.{}.resize"),
        *_block("mid_block.resnets.0", "middle.first"), *_block("mid_block.resnets.1", "middle.second"),
        *attention_rows("mid_block.attentions.0", "middle.attention", linear),
    ]  # fmt: skip
    for way in ("down", "up"):
        rows += _block(f"{way}_blocks.{{}}.resnets.{{}}", f"{way}s.{{}}.blocks.{{}}")
        rows += attention_rows(f"{way}_blocks.{{}}.attentions.{{}}", f"{way}s.{{}}.attentions.{{}}", linear)
    return KeyTable(tuple(rows))


def _block(source: str, target: str) -> Iterator[Row]:
    for theirs, ours in (("time_emb_proj", "time_proj"), ("conv_shortcut", "shortcut")):
        yield from pair(f"{source}.{theirs}", f"{target}.{ours}")
    for leaf in ("norm1", "conv1", "norm2", "conv2"):
        yield from pair(f"{source}.{leaf}", f"{target}.{leaf}")


def attention_rows(source: str, target: str, linear: bool) -> Iterator[Row]:
    """One attention to words by its name in the file; linear: as for `published_keys`."""
    flat = () if linear else (Squeeze(3), Squeeze(2))
    yield from pair(f"{source}.norm", f"{target}.norm")
    for leaf in ("proj_in", "proj_out"):
        yield from pair(f"{source}.{leaf}", f"{target}.{leaf}", *flat)
    block = f"{source}.transformer_blocks.0"
    for number, ours in ((1, "attn"), (2, "cross")):
        yield from (rename(f"{block}.attn{number}.to_{name}.weight", f"{target}.{ours}.{name}_proj.weight")
                    for name in "qkv")  # fmt: skip
        yield from pair(f"{block}.attn{number}.to_out.0", f"{target}.{ours}.o_proj")
        yield from pair(f"{block}.norm{number}", f"{target}.{ours}_norm")
    yield from pair(f"{block}.norm3", f"{target}.mlp_norm")
    yield from pair(f"{block}.ff.net.2", f"{target}.mlp.down_proj")
    for leaf in ("weight", "bias"):
        halves = [f"{target}.mlp.{name}_proj.{leaf}" for name in ("up", "gate")]
        yield split(f"{block}.ff.net.0.proj.{leaf}", halves)
