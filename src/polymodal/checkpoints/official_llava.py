"""The official layout of the LLaVAs: one LlavaLlamaForCausalLM whose `mm_*` settings tell v1, 1.5 and 1.6 apart.

config.json with mm_projector_type, image_aspect_ratio, ... -> checkpoints/official_llava_parts.py -> ModelSpec
weights: the language model and `model.mm_projector.*`; the vision tower lies elsewhere (`mm_vision_tower`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints.llava_format import llava_format
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec, Part
from polymodal.data.chat_formats import LLAVA_SYSTEM, vicuna
from polymodal.data.hf_image import CLIP, PublishedTransform, Squared, squared, transform_of
from polymodal.data.item_rules import SameCount, SizeCount
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Words, Written
from polymodal.data.tiles import GridTiles, SizedTiles, pad_tiles


@dataclass(frozen=True, kw_only=True)
class PromptStyle:
    """How the weights of a system were prompted, where that is not LLaVA's way.

    template: of conversations.  before, after: what stands around a picture and its marks.  border: the colour that
    makes a picture square, whatever `image_aspect_ratio` says.  legacy: see `official_llava_parts.added_tokens`.
    rewrite: of each conversation, before it is written.
    """

    template: Template = field(default_factory=lambda: vicuna(LLAVA_SYSTEM))
    before: tuple[Written, ...] = ()
    after: tuple[Written, ...] = (Words(text="\n"),)
    border: tuple[int, int, int] | None = None
    legacy: bool = False
    rewrite: Callable[[tuple[Message, ...]], tuple[Message, ...]] | None = None


def parse_official_config(config: Mapping[str, Any], style: PromptStyle = PromptStyle()) -> ModelSpec:
    """An official LLaVA config of any version -> the model; ConfigError for options that are not supported."""
    found = official_llava.parse_config(config, style.legacy)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(added=official_llava.added_tokens(config, style.legacy))
        template, newline = llava_format(files, tokenizer, style.template)
        own = template is not style.template  # a chat template writes what stands around pictures itself
        image = pictures(found, config, replace(style, before=(), after=newline) if own else style)
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(image,),
                              max_length=found.text.max_length, rewrite=style.rewrite)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=found.build, keys=(found.keys,), parts=drawing(found), assemble=assemble)


def pictures(found: official_llava.OfficialLlava, config: Mapping[str, Any], style: PromptStyle) -> Modality:
    """How pictures enter: squared with a colour, cropped, or in tiles, as `image_aspect_ratio` says."""
    added = official_llava.added_tokens(config, style.legacy)
    marked = set(official_llava.AROUND) <= set(added)
    start, end = ((Special(name=name),) if marked else () for name in official_llava.AROUND)
    # Without a token for patches the official placeholder is no word: every feature stands at -200.
    named = official_llava.PATCH in added
    name, placeholder_id = (official_llava.PATCH, None) if named else ("", official_llava.IMAGE)
    before, tiled = (*style.before, *start), found.tiled
    behind = (*(end if marked or named else (TEXT_START,)), *style.after)
    if tiled is not None:
        cut = SizedTiles(tiles=GridTiles(tile=tiled.tile, grids=tiled.grids))
        return Modality(name="image", placeholder=name, placeholder_id=placeholder_id, transform=cut, before=before,
                        after=behind, collate=pad_tiles,
                        tokens=SizeCount(tiled.tokens_of))  # fmt: skip
    return Modality(name="image", placeholder=name, placeholder_id=placeholder_id, before=before, after=behind,
                    transform=_squared(found, config, style.border), tokens=SameCount(found.tower.tokens))  # fmt: skip


def _squared(
    found: official_llava.OfficialLlava, config: Mapping[str, Any], border: tuple[int, int, int] | None
) -> PublishedTransform | Squared:
    side = found.tower.image_size
    settings = {**CLIP, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if border is not None:
        return Squared(inner=transform_of({}, settings), colour=border)
    return squared({"do_pad": config.get("image_aspect_ratio") == "pad"}, settings)


def official(kind: str) -> CheckpointFormat:
    """The official layout as the LLaVA of a kind has it: "linear" (v1), "mlp" (1.5), "anyres" (1.6)."""
    return CheckpointFormat(
        name="official LlavaLlamaForCausalLM",
        parse_config=parse_official_config,
        matches=official_llava.matches(kind),
        gather=lambda files: official_llava.gather(files.folder),
        one_file=True,
    )


def drawing(found: official_llava.OfficialLlava) -> tuple[Part, ...]:
    side, count, width = found.tower.image_size, found.tower.tokens, found.text.width
    layers, tiles = found.connector.depth, "" if found.tiled is None else ", tiles laid out in rows"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"[N, {count}, {found.tower.width}]", tokens=count),
        Part(slot="connector", modality="image", name=("linear" if layers == 1 else f"{layers} linears") + tiles,
             prefix="connectors.image", input=f"[N, {count}, {found.tower.width}]", output=f"[N, {count}, {width}]",
             tokens=count),
        Part(slot="backbone", name="language model", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
