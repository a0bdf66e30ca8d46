"""ViLT: one transformer over words and raw image patches, without a detector or a convolutional network.

    picture -> shorter side 384, at most 639, multiples of 32 -> 32 x 32 patches, linear -> tokens, kind 1 --+
    text -> BERT word pieces, at most 40 -> embeddings, kind 0 ------------------------------------------+-> ViT-B/32
    -> norm -> [CLS] -> dense, tanh -> answers (3129), rank, two-picture class; or the text positions -> words

Paper: ViLT (arXiv 2102.03334).  Weights: dandelin/vilt-b32-* (Apache-2.0), the library's layout; the official
Lightning files hold the same tensors under timm's names.
Traps: norm eps is 1e-12 in the library's config and 1e-6 in the official code; the word head is its own in the
published files, though the library's class takes every one for tied.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.vilt.checkpoint import ANSWERS, HEADS, MASKED, PICTURES, RANK, parse_config
from polymodal.systems.vilt.recipe import RECIPE


def _variant(name: str, parameters: int, hub: str, architecture: str, **changes: Any) -> Variant:
    repository = Repository(name=f"dandelin/vilt-b32-{hub}", license="Apache-2.0")
    config = {"model_type": "vilt", "architectures": [architecture], **changes}
    return Variant(name=name, parameters=parameters, config=config, repository=repository)


SYSTEM = System(
    id="vilt",
    aliases=("ViLT",),
    year=2021,
    fusion=("fusion-encoder",),
    assembly="SingleStream",
    inputs=("image", "text"),
    outputs=("answer class", "words", "rank"),
    headline="single-stream fusion with a linear patch embedding only",
    reference="arXiv 2102.03334",
    formats=(CheckpointFormat(name="transformers Vilt", matches=hf("vilt", *HEADS), parse_config=parse_config),),
    variants=(
        _variant("vqa", 117_588_537, "finetuned-vqa", ANSWERS, num_labels=3129),
        _variant("mlm", 135_658_554, "mlm", MASKED, tie_word_embeddings=False),
        _variant("nlvr2", 113_962_754, "finetuned-nlvr2", PICTURES, num_images=2, modality_type_vocab_size=3),
        _variant("coco", 111_595_777, "finetuned-coco", RANK),
        _variant("flickr30k", 111_595_777, "finetuned-flickr30k", RANK),
    ),
    recipe=RECIPE,
)  # fmt: skip
