"""What BEiT-3 and VL-BEiT share beyond the stack: drawing, processor, answers, retrieval."""

from __future__ import annotations

from typing import Any

from torch import nn

from polymodal.checkpoints.record import CheckpointFiles, LoadedModel, Part
from polymodal.checkpoints.region_text import answers_of
from polymodal.data import hf_image
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SentenceIds
from polymodal.data.labels import labels_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders.beit3 import BEiT3Config
from polymodal.models.multiway import Multiway, MultiwayRetrieval
from polymodal.pipelines.classification import scorer
from polymodal.pipelines.image_text_matching import PairScores

PICTURES = {**hf_image.BEIT, "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "resample": 3}


def drawing(tower: BEiT3Config, name: str) -> tuple[Part, ...]:
    """The one stack, as what it is to pictures and to words."""
    width, side = tower.width, tower.image_size
    return (
        Part(slot="encoder", modality="image", name="patches and their positions", prefix="encoder.patch_embed",
             input=f"pixel_values [N, 3, {side}, {side}]", output=f"[N, {tower.tokens}, {width}]",
             tokens=tower.tokens),
        Part(slot="backbone", name=name, prefix="encoder.blocks", input="pictures, words or pairs",
             output=f"[B, {tower.tokens} + T, {width}]"),
    )  # fmt: skip


def assemble_multiway(
    module: nn.Module, files: CheckpointFiles, *, bos: int, eos: int, pad: int, longest: int
) -> LoadedModel:
    """Processor; answers of an answer head, classes of pictures, retrieval, as the model has them."""
    config: Any = module.config
    tower = config.tower
    transform = transform_of(files.preprocessor, {**PICTURES, "size": tower.image_size})
    if isinstance(module, Multiway) and module.config.kind == "classes":
        known = labels_of({"num_labels": module.config.outputs, **files.json("config.json")})
        processor: Any = PairProcessor(transform=transform)
        return LoadedModel(model=module, processor=processor, score=scorer(module, transform, known))
    tokenizer = files.tokenizer()
    ids = SentenceIds(tokenizer, bos, eos, min(longest, tower.text_positions - 2))
    kind = module.config.kind if isinstance(module, Multiway) else "retrieval"
    answers = answers_of(files, module.config.outputs) if isinstance(module, Multiway) and kind == "answers" else ()
    processor = PairProcessor(
        transform=transform, tokenizer=tokenizer, ids=ids, pad=pad, pictures=2 if kind == "pairs" else None,
        answers=answers,
    )  # fmt: skip
    if not isinstance(module, MultiwayRetrieval):
        return LoadedModel(model=module, processor=processor)
    scores = PairScores(module, transform, ids)
    return LoadedModel(model=module, processor=processor, score=scores.score, embed=scores.embed)
