"""The VQGAN of Unified-IO and Unified-IO 2: which of its modules is which of a VQCodec, for both spellings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from polymodal.generators.conv_stack import ConvStackConfig
from polymodal.weights.keytable import Row

Spell = Callable[[str, str], Iterator[Row]]


def codec_rows(config: ConvStackConfig, conv: Spell, norm: Spell, linear: Spell) -> list[Row]:
    """Rows of all modules but the codebook; conv, norm, linear: (their dotted path, ours) -> rows of one module."""
    rows: list[Row] = []
    for name in ("quant_conv", "post_quant_conv"):
        rows += conv(name, name)
    last = len(config.channels) - 1

    def block(source: str, target: str) -> Iterator[Row]:
        for number in ("1", "2"):
            yield from norm(f"{source}.norm{number}", f"{target}.norm{number}")
            yield from conv(f"{source}.conv{number}", f"{target}.conv{number}")
        yield from conv(f"{source}.nin_shortcut", f"{target}.shortcut")

    def attention(source: str, target: str) -> Iterator[Row]:
        yield from norm(f"{source}.norm", f"{target}.norm")
        for theirs, ours in {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj_out": "o_proj"}.items():
            yield from linear(f"{source}.{theirs}", f"{target}.attn.{ours}")

    for side, way, resize in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        rows += [*conv(f"{side}.conv_in", f"{side}.conv_in"), *norm(f"{side}.norm_out", f"{side}.norm_out"),
                 *conv(f"{side}.conv_out", f"{side}.conv_out"), *block(f"{side}.mid_block_1", f"{side}.middle.first"),
                 *attention(f"{side}.mid_attn_1", f"{side}.middle.attention"),
                 *block(f"{side}.mid_block_2", f"{side}.middle.second")]  # fmt: skip
        for number in range(last + 1):
            theirs = f"{side}.{way}_{number}"
            level = f"{side}.levels.{number if side == 'encoder' else last - number}"
            rows += [*block(f"{theirs}_block_{{}}", f"{level}.blocks.{{}}"),
                     *attention(f"{theirs}_attn_{{}}", f"{level}.attentions.{{}}"),
                     *conv(f"{theirs}_{resize}.conv", f"{level}.resize")]  # fmt: skip
    return rows
