"""The names of CoDi's published U-Nets (`unet_image`, `unet_text`, `unet_audio`) -> a ComposableUNet."""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.generators.composable_layers import GridLayers
from polymodal.generators.composable_unet import ComposableUNetConfig
from polymodal.generators.unet_keys import attention_rows
from polymodal.weights.keytable import KeyTable, Row, pair, rename, split
from polymodal.weights.operations import Squeeze


def frame_rows(source: str, target: str, flat: tuple[Squeeze, ...]) -> Iterator[Row]:
    """A FrameMixing by the names of the published video modules.  flat: how a kernel of 1 becomes a linear's weight.

    Its norm's gain has its own shape for each number of dimensions, which `flat` also takes away.
    """
    attn, distance = f"{source}.temporal_attn", f"{source}.temporal_rel_pos_bias.net"
    yield rename(f"{attn}.norm.g", f"{target}.attn.gain")
    yield rename(f"{attn}.to_q.weight", f"{target}.attn.q_proj.weight")
    yield split(f"{attn}.to_kv.weight", [f"{target}.attn.{name}_proj.weight" for name in "kv"])
    yield rename(f"{attn}.to_out.weight", f"{target}.attn.o_proj.weight")
    for theirs, ours in (("pos_embeds", "places"), ("frame_rate_embeds", "rates")):
        yield rename(f"{attn}.{theirs}", f"{target}.attn.{ours}", Squeeze(0))
    for theirs, ours in (("0.0", "first"), ("1.0", "second"), ("2", "last")):
        yield from pair(f"{distance}.{theirs}", f"{target}.distance.{ours}")
    yield rename(f"{source}.ff.proj_out.1.weight", f"{target}.mlp.down_proj.weight", *flat)
    halves = [f"{target}.mlp.{name}_proj.weight" for name in ("up", "gate")]
    yield split(f"{source}.ff.proj_in.0.weight", halves, *flat)


def official_keys(config: ComposableUNetConfig) -> KeyTable:
    """Below the U-Net's own prefix.  Strict both ways."""
    rows: list[Row] = [*pair("time_embed.0", "time_in"), *pair("time_embed.2", "time_out"), *pair("out.0", "norm_out"),
                       *pair("out.2", "conv_out")]  # fmt: skip
    for theirs, ours in (("input_blocks", "downs"), ("output_blocks", "ups"), ("connecters_out", "environment.steps")):
        rows += _step(config, f"{theirs}.{{}}", f"{ours}.{{}}")
        rows += attention_rows(f"{theirs}.{{}}.1", f"{ours}.{{}}.words", linear=False)
    for theirs, ours in (("input_block_connecters_in", "downs"), ("output_block_connecters_in", "ups")):
        rows += attention_rows(f"{theirs}.{{}}.0", f"{ours}.{{}}.join", linear=False)
    for number, name in ((0, "first"), (2, "second")):
        rows += _inner(config, f"middle_block.{number}", f"middle.{name}")
    rows += attention_rows("middle_block.1", "middle.words", linear=False)
    # What stands first or last in a list would fit the patterns of the others.
    return KeyTable((*_last(config), *_grown(config), *rows))


def _step(config: ComposableUNetConfig, source: str, target: str) -> Iterator[Row]:
    yield from _inner(config, f"{source}.0", target)
    op = ".op" if isinstance(config.layers, GridLayers) else ""
    yield from pair(f"{source}.0{op}", f"{target}.resize")


def _inner(config: ComposableUNetConfig, source: str, target: str) -> Iterator[Row]:
    grids = isinstance(config.layers, GridLayers)
    flat = () if grids else (Squeeze(3), Squeeze(2))
    name = "conv" if grids else "linear"
    if grids and config.layers.frames:  # type: ignore[attr-defined]
        film = f"{target}.film"
        yield from _film(f"{source}.1", film)
        source = f"{source}.0"
    block = f"{target}.block"
    for theirs, ours, operations in (
        ("in_layers.0", "norm1", ()), ("in_layers.2", f"{name}1", flat), ("emb_layers.1", "time_proj", ()),
        ("out_layers.0", "norm2", ()), ("out_layers.3", f"{name}2", flat), ("skip_connection", "shortcut", flat),
    ):  # fmt: skip
        yield from pair(f"{source}.{theirs}", f"{block}.{ours}", *operations)


def _film(source: str, target: str) -> Iterator[Row]:
    yield from frame_rows(source, f"{target}.mixing", (Squeeze(4), Squeeze(3), Squeeze(2)))
    gain = (Squeeze(3), Squeeze(2), Squeeze(1))
    yield rename(f"{source}.ff.proj_out.0.g", f"{target}.mixing.mlp.gain", *gain)
    yield from pair(f"{source}.frameshiftblock.out_layers.0", f"{target}.norm")
    yield from pair(f"{source}.frameshiftblock.out_layers.2", f"{target}.conv")


def _last(config: ComposableUNetConfig) -> Iterator[Row]:
    """The begin of both ways down, and the end of the environment's."""
    yield from pair("input_blocks.0.0", "downs.0.resize")
    yield from pair("connecters_out.0.0", "environment.steps.0.resize")
    end = 1 + sum(config.environment_blocks) + len(config.environment) - 1
    yield from pair(f"connecters_out.{end}.0", "environment.norm_out")
    yield from pair(f"connecters_out.{end}.2", "environment.conv_out")


def _grown(config: ComposableUNetConfig) -> Iterator[Row]:
    """What makes grids larger stands behind the attention, where there is one."""
    index, conv = 0, ".conv" if isinstance(config.layers, GridLayers) else ""
    for level in reversed(range(len(config.multipliers))):
        index += config.blocks[level] + 1
        if level:
            place = 2 if config.attends[level] else 1
            yield from pair(f"output_blocks.{index - 1}.{place}{conv}", f"ups.{index - 1}.resize")
