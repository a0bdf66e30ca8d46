"""Published checkpoints of OpenFlamingo: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import CLIP_L, EVERY, PUBLISHED
from polymodal.data.interleaved import Shots
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.processor import Modality, Processor
from polymodal.data.transforms import ShorterSideCrop
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Repository,
    Variant,
)

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"


SHOTS = Shots(end=END)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size."""
    found = open_flamingo.open_flamingo(config)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        words = files.tokenizer(added=(END, IMAGE, PAD), eos=END, pad=PAD)
        image = Modality(
            name="image",
            placeholder=IMAGE,
            transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"),
            tokens=SameCount(1),
            collate=StackedAs("vision_x"),
        )
        limit = found.backbone.max_length
        processor = Processor(tokenizer=words, template=SHOTS, modalities=(image,), max_length=limit)
        return LoadedModel(model=module, processor=processor)

    keys = open_flamingo.keys_of(config, found)
    return ModelSpec(build=found.build, keys=(keys,), parts=open_flamingo.drawing(found), assemble=assemble)


def infer(shapes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config of a published checkpoint.pt, by the prefix and width of its language model; None for other files."""
    found = open_flamingo.size_of(shapes)
    return None if found is None or "lm_head.rnn.weight_ih_l0" in shapes else published(*found)


def published(name: str, vocabulary: int = 50280) -> dict[str, Any]:
    """A released model's config; the three added tokens are the last ones of the vocabulary."""
    text = {**PUBLISHED[name], "vocab_size": vocabulary}
    return {"model_type": "open_flamingo", "text_config": text, "vision_config": CLIP_L,
            "cross_attn_every_n_layers": EVERY[name], "eoc_token_id": 50277, "media_token_id": 50278,
            "eos_token_id": 50277}  # fmt: skip


def _variant(name: str, size: str, parameters: int, license: str) -> Variant:
    repository = Repository(name=f"openflamingo/OpenFlamingo-{name}", license=license)
    config = published(size)
    return Variant(name=name.lower(), parameters=parameters, config=config, repository=repository)
