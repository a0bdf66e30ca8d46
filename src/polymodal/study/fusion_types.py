"""mini-a, mini-b, mini-c and mini-d: one backbone and one encoder, joined by the four types of fusion.

    features of the frozen encoder [N, S, F]
    mini-a   connector -> gated cross-attention in front of every n-th block; one placeholder an item
    mini-b   connector -> spliced at S placeholders, which have q, k, v and o of their own in every block
    mini-c   connector -> spliced at S placeholders
    mini-d   nearest rows of a codebook -> ids behind those of text, with rows of their own in embedding and head

The backbone is frozen in all four, so that a type is what was added to it; the connector is the same in a, b and c.
A batch brings the features as `pixel_values` (of d, the codes [N, h, w]): the encoder is frozen too, and is run once
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderConfig
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.fusion.cross_attention import GatedCrossAttentionConfig, with_cross_attention
from polymodal.fusion.routing import RoutedLinearConfig, copy_text_branches
from polymodal.fusion.visibility import InterleavedContext
from polymodal.fusion.vocabulary import Span, Spelling, Vocabulary, extend
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import MLPConfig

State = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How a modality comes: `tokens` features an item of width `features`, or as many of `codes` codes; placeholder:
    the id that stands for it."""

    features: int
    tokens: int
    codes: int
    placeholder: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the four share.  entries: by modality.  every: blocks per gated block of mini-a."""

    backbone: DecoderConfig
    entries: Mapping[str, Entry]
    every: int = 5

    @property
    def placeholders(self) -> dict[str, int]:
        return {name: entry.placeholder for name, entry in self.entries.items()}

    def connectors(self) -> dict[str, nn.Module]:
        """Two linears from each encoder's width to the backbone's."""
        build = MLPConnectorConfig(depth=2).build
        return {name: build(entry.features, self.backbone.width) for name, entry in self.entries.items()}

    def encoders(self) -> dict[str, nn.Module]:
        """The batch brings what the frozen encoders gave."""
        return {name: nn.Identity() for name in self.entries}


@dataclass(frozen=True, kw_only=True)
class FusionType:
    """build(shape, weights of the bare backbone) -> the model.  train: what learns.  lr: the peak rate, the best of the
    rates in docs/studies.md.  one_place: an item has one placeholder.  coded: it is given by codes.

    adds, added_lr: what speech adds to a model that has pictures, which then learns alone, and its rate.  shared: what
    both go through.  kept: of a name of the model with pictures -> that of the same tensor with speech beside them.
    """

    letter: str
    name: str
    build: Callable[[Shape, State], MultimodalLM]
    train: tuple[str, ...]
    lr: float
    adds: tuple[str, ...]
    added_lr: float
    shared: tuple[str, ...] = ()
    kept: Callable[[str], str] = lambda name: name
    one_place: bool = False
    coded: bool = False

    @property
    def id(self) -> str:
        return f"mini-{self.letter.lower()}"


def filled(config: DecoderConfig, weights: State, names: Callable[[str], str] = lambda name: name) -> Decoder:
    """A decoder with the bare backbone's weights; names: of the bare name -> ours.  What it lacks stays fresh."""
    decoder = config.build()
    given = {names(name): value for name, value in weights.items()}
    decoder.load_state_dict({**decoder.state_dict(), **given})
    return decoder


def cross_attention(shape: Shape, weights: State) -> MultimodalLM:
    text = shape.backbone
    cross = GatedCrossAttentionConfig(
        attention=AttentionConfig(width=text.width, heads=text.blocks[0].attention.heads, source_width=text.width),
        mlp=MLPConfig(width=text.width, ffn_width=4 * text.width, bias=False),
    )
    blocks = with_cross_attention(text.blocks, cross, range(shape.every - 1, text.depth, shape.every))
    backbone = filled(replace(text, blocks=blocks), weights)
    context = InterleavedContext(shape.placeholders)
    return MultimodalLM(shape.encoders(), shape.connectors(), backbone, {}, context=context)


@dataclass(frozen=True)
class Kinds:
    """`prepare_inputs` of mini-b: 0 for text, then one kind a modality."""

    placeholders: tuple[int, ...]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds nothing to a batch that has its token types, or text alone."""
        ids = batch["input_ids"]
        kinds = sum((ids == each).long() * number for number, each in enumerate(self.placeholders, 1))
        assert isinstance(kinds, Tensor)
        return {"token_types": kinds} if batch.get("token_types") is None and bool(kinds.any()) else {}


def visual_expert(shape: Shape, weights: State) -> MultimodalLM:
    count = 1 + len(shape.entries)
    routed = RoutedLinearConfig(branches=(LinearConfig(),) * count, routes=tuple(range(count)))
    linears = AttentionLinears(q=routed, k=routed, v=routed, o=routed)
    blocks = (replace(block, attention=replace(block.attention, linears=linears)) for block in shape.backbone.blocks)

    def first(name: str) -> str:
        path, _, leaf = name.rpartition(".")
        return f"{path}.branches.0.{leaf}" if ".attn." in name and path.endswith("_proj") else name

    backbone = filled(replace(shape.backbone, blocks=tuple(blocks)), weights, first)
    copy_text_branches(backbone)
    kinds = Kinds(tuple(shape.placeholders.values()))
    return MultimodalLM(shape.encoders(), shape.connectors(), backbone, shape.placeholders, prepare_inputs=kinds)


def splice(shape: Shape, weights: State) -> MultimodalLM:
    return MultimodalLM(shape.encoders(), shape.connectors(), filled(shape.backbone, weights), shape.placeholders)


def vocabulary(shape: Shape, weights: State) -> MultimodalLM:
    backbone, size, codecs = filled(shape.backbone, weights), shape.backbone.vocab_size, {}
    for name, entry in shape.entries.items():
        codecs[name] = Span(start=size, count=entry.codes)
        size += entry.codes
        extend(backbone, entry.codes)
    words = Vocabulary(size=size, codecs=codecs)
    spellings = {name: Spelling(words, name) for name in shape.entries}
    return DiscreteTokenLM(shape.encoders(), spellings, backbone, shape.placeholders)


def deeper(name: str) -> str:
    """The rows of mini-d lie in one more table of the table with speech."""
    rows = "backbone.embed_tokens."
    return name.replace(rows, f"{rows}base.", 1) if name.startswith(rows) else name


HEARD = "connectors.audio"
TYPES: Mapping[str, FusionType] = {
    each.letter: each
    for each in (
        FusionType(letter="A", name="gated cross-attention between blocks", build=cross_attention,
                   train=("connectors", "backbone.blocks.*.cross"), lr=3e-3, one_place=True,
                   adds=(HEARD,), added_lr=3e-2, shared=("backbone.blocks.*.cross",)),
        FusionType(letter="B", name="visual expert inside blocks", build=visual_expert,
                   train=("connectors", "backbone.blocks.*.attn.*.branches.1"), lr=1e-3,
                   adds=(HEARD, "backbone.blocks.*.attn.*.branches.2"), added_lr=1e-3),
        FusionType(letter="C", name="features at placeholders", build=splice, train=("connectors",), lr=1e-2,
                   adds=(HEARD,), added_lr=3e-3),
        FusionType(letter="D", name="codes in the vocabulary", build=vocabulary, train=("backbone.embed_tokens.new",),
                   lr=3e-2, coded=True, adds=("backbone.embed_tokens.new",), added_lr=3e-2, kept=deeper),
    )
}  # fmt: skip


def with_speech(shape: Shape, speech: Entry | None = None) -> Shape:
    """The shape with speech beside the pictures; without an entry of its own that of Whisper tiny.en's features (width
    384), as many an item and as many codes as of pictures."""
    image = shape.entries["image"]
    speech = speech or replace(image, features=384, placeholder=image.placeholder + 1)
    return replace(shape, entries={**shape.entries, "audio": speech})


def numbers(kind: FusionType, shape: Shape) -> int:
    """Parameters of a type beside those of the bare backbone; nothing is allocated."""
    with torch.device("meta"):
        bare = shape.backbone.build()
        model = kind.build(shape, dict(bare.state_dict()))
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in bare.parameters())


def added_by_speech(kind: FusionType, shape: Shape, speech: Entry | None = None) -> int:
    """Parameters that a second modality adds to a type; of mini-a, whose gated blocks both share, a connector."""
    return numbers(kind, with_speech(shape, speech)) - numbers(kind, shape)
