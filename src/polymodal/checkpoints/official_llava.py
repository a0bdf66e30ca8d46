"""The official layout of the LLaVAs: one LlavaLlamaForCausalLM whose `mm_*` settings tell v1, 1.5 and 1.6 apart.

config.json with mm_projector_type, image_aspect_ratio, ... -> checkpoints/official_llava_parts.py -> ModelSpec
weights: the language model and `model.mm_projector.*`; the vision tower lies elsewhere (`mm_vision_tower`)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints.llava_format import llava_format
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec, Part
from polymodal.data.chat_formats import LLAVA_SYSTEM, vicuna
from polymodal.data.hf_image import CLIP, squared
from polymodal.data.item_rules import SameCount, SizeCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Written
from polymodal.data.tiles import GridTiles, SizedTiles, pad_tiles

AROUND = ("<im_start>", "<im_end>")


def parse_official_config(config: Mapping[str, Any], system: str = LLAVA_SYSTEM) -> ModelSpec:
    """An official LLaVA config of any version -> the model; ConfigError for options that are not supported.

    system: the first sentences of a conversation, which the weights were trained with.
    """
    found = official_llava.parse_config(config)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        marked = config.get("mm_use_im_start_end")  # these are appended to the vocabulary, the patch first
        patch = (official_llava.PATCH,) if official_llava.has_patch_token(config) else ()
        tokenizer = files.tokenizer(added=(*patch, *AROUND) if marked else ())
        template, after = llava_format(files, tokenizer, vicuna(system))
        image = pictures(found, config, after)
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(image,),
                              max_length=found.text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=found.build, keys=(found.keys,), parts=drawing(found), assemble=assemble)


def pictures(found: official_llava.OfficialLlava, config: Mapping[str, Any], newline: tuple[Written, ...]) -> Modality:
    """How pictures enter: squared with the mean colour, cropped, or in tiles, as `image_aspect_ratio` says.

    newline: what stands behind a picture.
    """
    marked = bool(config.get("mm_use_im_start_end"))
    before, after = ((Special(name=AROUND[0]),), (Special(name=AROUND[1]),)) if marked else ((), ())
    # Without a token for patches between marks the official placeholder is no word: every feature stands at -200.
    named = marked and official_llava.has_patch_token(config)
    name, placeholder_id = (official_llava.PATCH, None) if named else ("", official_llava.IMAGE)
    behind, tiled = (*(after if marked else (TEXT_START,)), *newline), found.tiled
    if tiled is not None:
        cut = SizedTiles(tiles=GridTiles(tile=tiled.tile, grids=tiled.grids))
        return Modality(name="image", placeholder=name, placeholder_id=placeholder_id, transform=cut, before=before,
                        after=behind, collate=pad_tiles,
                        tokens=SizeCount(tiled.tokens_of))  # fmt: skip
    side = found.tower.image_size
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    transform = squared({"do_pad": config.get("image_aspect_ratio") == "pad"}, {**CLIP, **size})
    return Modality(name="image", placeholder=name, placeholder_id=placeholder_id, transform=transform, before=before,
                    after=behind, tokens=SameCount(found.tower.tokens))  # fmt: skip


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
