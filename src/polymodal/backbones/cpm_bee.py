"""CPM-Bee (OpenBMB, 2023): reads a tree of keys and texts, each of them a segment of the row, and writes its answers.

    ids [B, T] -> embedding / sqrt(D), turned by the number of a numbered token -> blocks -> norm -> tied head / sqrt(D)
    block:   x = (x + attn(norm(x))) / 1.05;  x = (x + mlp(norm(x))) / 1.05
    scores + bias: by the distance within a segment, by the way through the tree from one segment to another
    what is asked sees all that is asked; an answer sees that, and of the answers what is before it

Which segment a column belongs to is the decoder's `context`, a `Segments` (`cpm_bee_segments.py` makes it of a batch).
An id of V * k + i is token i with the number k: words that the vocabulary lacks are numbered in their order.
Traps: what a linear gives is divided by sqrt(in), so that its weights have unit variance; the numbers of a tree's ways
begin behind the buckets of distances, and way 0 is no way (the same segment).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderBlock, DecoderBlockConfig, DecoderConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.cache import KVCache, LayerCache
from polymodal.nn.linear import Linear
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.moe import RouterLogits
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.relative import RelativePositionsConfig
from polymodal.nn.rope import RopeConfig, Rotation, apply_rope
from polymodal.nn.token_types import TokenTypes
from polymodal.weights.keytable import KeyTable, rename

SHRINK = 1.05  # what leaves a step of a block is divided by it
NUMBER_SCALE = 16  # positions of rope between one number of a numbered token and the next
MAX_DEPTH = 8  # a way through a tree is (levels up) * 8 + (levels down) + 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """numbers int64 [B, S]: the segment of each column of a prompt.  answers bool [B, S]: columns of answers.

    ways int64 [B, n * n] with counts int64 [B]: the way from segment i to j of a row at i * counts + j; None: the tree
    is flat, segment 0 its root, 1 and 2 the first key and its text, 3 and 4 the second.
    """

    numbers: Tensor
    answers: Tensor
    ways: Tensor | None = None
    counts: Tensor | None = None

    def extended(self, rows: int, total: int) -> Segments:
        """For `total` columns: what is written goes on in the last segment.  rows: each of ours several times."""
        more, times = total - self.numbers.shape[1], rows // len(self.numbers)
        numbers = torch.cat((self.numbers, self.numbers[:, -1:].expand(-1, more)), 1)
        answers = nn.functional.pad(self.answers, (0, more), value=True)
        tables = (numbers, answers, self.ways, self.counts)
        repeated = [None if table is None else table.repeat_interleave(times, 0) for table in tables]
        return Segments(numbers=repeated[0], answers=repeated[1], ways=repeated[2], counts=repeated[3])  # type: ignore[arg-type]

    def visible(self, count: int) -> Tensor:
        """bool [B, count, S]: what the last `count` columns see."""
        total = self.answers.shape[1]
        place = torch.arange(total, device=self.answers.device)
        before = place <= place[-count:, None]
        return ~self.answers[:, None] | (self.answers[:, -count:, None] & before)

    def way(self, count: int) -> Tensor:
        """int64 [B, count, S]: the way from the segments of the last `count` columns to those of all; 0 for none."""
        here, there = self.numbers[:, -count:, None], self.numbers[:, None]
        if self.ways is not None and self.counts is not None:
            index = here * self.counts[:, None, None] + there
            return self.ways.gather(1, index.flatten(1)).view_as(index)
        # Of a key and its text the key is above both; of all others it is the root.
        together = ((here + 1) // 2 == (there + 1) // 2).long()
        up, down = ((2 - number % 2) * (number > 0) - together for number in (here, there))
        return torch.where(here == there, 0, up * MAX_DEPTH + down + 1)


class ScaledLinear(nn.Module):
    """`W x / sqrt(in)`, W of unit variance.  `[..., in] -> [..., out]`"""

    def __init__(self, in_width: int, out_width: int, bias: bool) -> None:
        super().__init__()
        self.linear = Linear(in_width, out_width, bias=bias)
        nn.init.normal_(self.linear.weight)
        self.scale = in_width**-0.5

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        return self.linear(x) * self.scale


@dataclass(frozen=True, kw_only=True)
class ScaledLinearConfig:
    """For a linear slot."""

    def build(self, in_width: int, out_width: int, bias: bool = False) -> ScaledLinear:
        return ScaledLinear(in_width, out_width, bias)


class TreePositions(nn.Module):
    """`weight [buckets + ways, H]`: what is added to the scores, by the distance or by the way."""

    def __init__(self, config: RelativePositionsConfig, ways: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.buckets + ways, config.heads) * 0.02)

    def forward(self, segments: Segments, count: int) -> Tensor:
        """Bias [B, H, count, S] of the last `count` columns."""
        place = torch.arange(segments.numbers.shape[1], device=self.weight.device)
        inside = self.config.bucket(place - place[-count:, None])
        way = segments.way(count)
        index = torch.where(way == 0, inside, way - 1 + self.config.buckets)
        return self.weight[index].permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class CPMBeeBlockConfig(DecoderBlockConfig):
    """A block whose steps are shrunk."""

    def build(self) -> CPMBeeBlock:
        return CPMBeeBlock(self)


class CPMBeeBlock(DecoderBlock):
    """`[B, T, D] -> [B, T, D]`"""

    def forward(
        self,
        x: Tensor,
        mask: PreparedMask,
        rope: Rotation | None,
        cache: LayerCache | None = None,
        context: Any = None,
        token_types: TokenTypes | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """As `DecoderBlock.forward`."""
        x = (x + self.attn(self.attn_norm(x), mask, rope, cache)) / SHRINK
        return (x + self.mlp(self.mlp_norm(x))) / SHRINK


@dataclass(frozen=True, kw_only=True)
class CPMBeeConfig(DecoderConfig):
    """A DecoderConfig that builds a `CPMBee`.  distances: buckets within a segment.  ways: buckets between segments."""

    distances: RelativePositionsConfig
    ways: int = 256

    def build(self) -> CPMBee:
        return CPMBee(self)


class CPMBee(Decoder):
    """See the module docstring."""

    config: CPMBeeConfig

    def __init__(self, config: CPMBeeConfig) -> None:
        super().__init__(config)
        self.bias = TreePositions(config.distances, config.ways)
        self.scale = config.width**-0.5
        self._turn = RopeConfig(head_dim=config.width).build()

    def embed(self, input_ids: Tensor) -> Tensor:
        """ids [B, T], those of numbered tokens too, -> [B, T, D]."""
        embeds = self.embed_tokens(input_ids % self.config.vocab_size) * self.scale
        numbers = input_ids // self.config.vocab_size
        return apply_rope(embeds[:, None], *self._turn(numbers * NUMBER_SCALE, embeds.dtype)[:2])[:, 0]

    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> logits [..., V], none for numbered tokens."""
        return super().head(hidden * self.scale)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        mask: MaskSpec | None = None,
        token_types: Tensor | None = None,
        context: Any = None,
        cache: KVCache | None = None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """As `Decoder.forward`; positions are those of the columns.  A prompt goes in one piece.

        Raises ConfigError without `Segments` as context.
        """
        if not isinstance(context, Segments):
            raise ConfigError(f"cpm-bee: expected Segments as context, found {type(context).__name__}")
        rows, count = inputs_embeds.shape[:2]
        total = count if cache is None else cache.length + count
        segments = context.extended(rows, total)
        real = None if mask is None else mask.attention_mask
        visible = segments.visible(count)
        if real is not None:  # padding sees nothing, as nothing sees it
            visible = visible & real[:, -count:, None].bool()
        packed = None if mask is None else mask.segments
        rule = MaskSpec(causal=False, attention_mask=real, segments=packed, visible=visible)
        bias = self.bias(segments, count).to(inputs_embeds.dtype)
        prepared = rule.prepare(count, total, inputs_embeds.device).biased(bias, count)
        x = inputs_embeds
        for index, block in enumerate(self.blocks):
            x = block(x, prepared, None, None if cache is None else cache.layer(index))
        if cache is not None:
            cache.advance(count)
        return x if self.norm is None else self.norm(x)


DEFAULTS = {"vocab_size": 30720, "dim_model": 4096, "num_heads": 64, "dim_head": 64, "dim_ff": 10240, "num_layers": 32,
            "position_bias_num_buckets": 256, "position_bias_num_segment_buckets": 256,
            "position_bias_max_distance": 2048, "eps": 1e-6}  # fmt: skip


def parse_config(config: Mapping[str, Any], max_length: int) -> CPMBeeConfig:
    """The decoder that a published cpm-bee json describes; `half` and `dropout_p` say nothing about its numbers.

    Raises ConfigError for blocks with masked steps, and for too few buckets.
    """
    if config.get("mask_modules") is not None:
        raise ConfigError("cpm-bee: mask_modules is not supported; expected null")
    found = {**DEFAULTS, **config}
    width, heads = found["dim_model"], found["num_heads"]
    if width % 2:
        raise ConfigError(f"cpm-bee: dim_model must be even, found {width}")
    scaled = ScaledLinearConfig()
    block = CPMBeeBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, head_dim=found["dim_head"],
                                  linears=AttentionLinears(q=scaled, k=scaled, v=scaled, o=scaled)),
        mlp=GatedMLPConfig(width=width, ffn_width=found["dim_ff"], activation="gelu", linear=scaled),
        norm=RMSNormConfig(eps=found["eps"]),
    )  # fmt: skip
    distances = RelativePositionsConfig(heads=heads, bidirectional=True, buckets=found["position_bias_num_buckets"],
                                        max_distance=found["position_bias_max_distance"])  # fmt: skip
    return CPMBeeConfig(
        vocab_size=found["vocab_size"], width=width, blocks=(block,) * found["num_layers"], norm=block.norm, tied=True,
        distances=distances, ways=found["position_bias_num_segment_buckets"], max_length=max_length,
    )  # fmt: skip


_BLOCK = "encoder.layers.{}"
_NAMES = {
    "self_att.layernorm_before_attention": "attn_norm",
    **{f"self_att.self_attention.project_{name}": f"attn.{name}_proj.linear" for name in "qkv"},
    "self_att.self_attention.attention_out": "attn.o_proj.linear",
    "ffn.layernorm_before_ffn": "mlp_norm",
    "ffn.ffn.w_in.w_0": "mlp.gate_proj.linear",
    "ffn.ffn.w_in.w_1": "mlp.up_proj.linear",
    "ffn.ffn.w_out": "mlp.down_proj.linear",
}
KEYS = KeyTable(
    (
        rename("input_embedding.weight", "embed_tokens.weight"),
        rename("position_bias.relative_attention_bias", "bias.weight"),
        rename("encoder.output_layernorm.weight", "norm.weight"),
        *(rename(f"{_BLOCK}.{theirs}.weight", f"blocks.{{}}.{ours}.weight") for theirs, ours in _NAMES.items()),
    )
)
"""The published names -> a CPMBee."""
