"""The names of guided diffusion's UNetModel (arXiv 2105.05233) -> a UNet without words.

    input_blocks.{n}.{0 block, 1 attention, or 0.op}  middle_block.{0, 1, 2}  output_blocks.{n}.{0, 1, then conv}

Trap: the list of blocks goes through all levels, so what a number is follows from the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.generators.unet import UNetConfig
from polymodal.weights.keytable import Row, pair, split
from polymodal.weights.operations import Squeeze

BLOCK = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_proj", "out_layers.0": "norm2",
         "out_layers.3": "conv2", "skip_connection": "shortcut"}  # fmt: skip
ENDS = {"time_embed.0": "time_in", "time_embed.2": "time_out", "input_blocks.0.0": "conv_in", "out.0": "norm_out",
        "out.2": "conv_out"}  # fmt: skip


def guided_rows(config: UNetConfig, source: str, target: str) -> Iterator[Row]:
    """source, target: prefixes with their dot.  Strict both ways."""
    for theirs, ours in ENDS.items():
        yield from pair(f"{source}{theirs}", f"{target}{ours}")
    for number, name in ((0, "first"), (2, "second")):
        yield from _block(f"{source}middle_block.{number}", f"{target}middle.{name}")
    yield from _attention(f"{source}middle_block.1", f"{target}middle.attention")
    index, last = 1, len(config.widths) - 1
    for level in range(last + 1):
        for block in range(config.blocks):
            yield from _step(config, level, f"{source}input_blocks.{index}", f"{target}downs.{level}", block)
            index += 1
        if level < last:
            yield from pair(f"{source}input_blocks.{index}.0.op", f"{target}downs.{level}.resize")
            index += 1
    index = 0
    for level in reversed(range(last + 1)):
        at = f"{target}ups.{last - level}"
        for block in range(config.blocks + 1):
            yield from _step(config, level, f"{source}output_blocks.{index}", at, block)
            index += 1
        if level:
            place = 2 if config.attends[level] else 1
            yield from pair(f"{source}output_blocks.{index - 1}.{place}.conv", f"{at}.resize")


def _step(config: UNetConfig, level: int, source: str, target: str, block: int) -> Iterator[Row]:
    yield from _block(f"{source}.0", f"{target}.blocks.{block}")
    if config.attends[level]:
        yield from _attention(f"{source}.1", f"{target}.attentions.{block}")


def _block(source: str, target: str) -> Iterator[Row]:
    for theirs, ours in BLOCK.items():
        yield from pair(f"{source}.{theirs}", f"{target}.{ours}")


def _attention(source: str, target: str) -> Iterator[Row]:
    """With one head queries, keys and values stand one behind the other."""
    yield from pair(f"{source}.norm", f"{target}.norm")
    yield from pair(f"{source}.proj_out", f"{target}.attn.o_proj", Squeeze(2))
    for leaf, flat in (("weight", (Squeeze(2),)), ("bias", ())):
        yield split(f"{source}.qkv.{leaf}", [f"{target}.attn.{name}_proj.{leaf}" for name in "qkv"], *flat)
