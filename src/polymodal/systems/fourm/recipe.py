"""How 4M was trained: numbers of the configs of apple/ml-4m (cfgs/default/4m), rates for the whole batch.

The rate is 1e-4 for 256 samples; tokens of the configs are samples times what is read and written of each.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import AdamW, Budget, Cosine, DataSource, Stage
from polymodal.train.diffusion_coding import DiffusionCoding
from polymodal.train.modality_masking import MaskedModalityModeling
from polymodal.train.visual_tokens import FeatureCoding

KIND = "images"
DENSE = ("tok_rgb", "tok_depth", "tok_semseg", "tok_normal", "tok_clip")
WORDS = ("caption", "det")
MORE = ("metadata", "human_poses", "color_palette", "sam_instance", "tok_dinov2@224", "tok_dinov2_global",
        "tok_imagebind@224", "tok_imagebind_global", "tok_sam_edge@224", "tok_canny_edge@224")  # fmt: skip
SEQUENCES = (*WORDS, "metadata", "human_poses", "sam_instance")
ALL = ("encoder", "decoder", "encoder_norm", "decoder_norm", "context_proj", "mask_token", "inputs", "outputs")
OPTIMIZER: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05}


def at_side(side: int) -> tuple[str, ...]:
    """The grids of ids of pictures of so many pixels a side."""
    return tuple(f"{name}@{side}" for name in DENSE)


def pretraining() -> MaskedModalityModeling:
    """Half of the samples read pixels alone, half read all."""
    names = (*at_side(224), *WORDS)
    return MaskedModalityModeling(
        inputs={"rgb@224": (1000.0, 0.5), **dict.fromkeys(names, (0.0, 0.5))},
        targets={"rgb@224": (0.0, 0.0), **dict.fromkeys(names, (0.5, 0.5))},
        keep=dict.fromkeys(WORDS, ("random", "random")),
    )


def twenty_one() -> MaskedModalityModeling:
    """Four parts from single modalities to all alike, one of pixels, two halves of captions as words and as vectors."""
    names = (*at_side(224), "det", *MORE)
    spread, none = (0.01, 0.1, 1.0, 10.0), (0.0, 0.0, 0.0, 0.0)
    few = (*spread, 0.0, 0.05, 0.05)
    return MaskedModalityModeling(
        inputs={"rgb@224": (*spread, 1000.0, 0.05, 0.05), "caption": (*spread, 0.0, 5.0, 0.0),
                "t5_caption": (*spread, 0.0, 0.0, 5.0), **dict.fromkeys(names, few)},
        targets={"rgb@224": (*none, 0.0, 0.0, 0.0), "caption": (*spread, 0.5, 0.0, 0.5),
                 **dict.fromkeys(names, (*spread, 0.5, 0.5, 0.5))},
        weights=(1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5),
        keep={**dict.fromkeys(SEQUENCES, ("random",) * 7), "caption": (*("random",) * 5, "all", "random"),
              "t5_caption": (*("random",) * 6, "all"), "color_palette": ("binary",) * 7},
        given=(256, 256), asked=(256, 256),
    )  # fmt: skip


def from_words() -> MaskedModalityModeling:
    """A third of the samples read captions for the most part."""
    names = (*at_side(224), "det")
    few = (0.05, 0.2, 1.0)
    return MaskedModalityModeling(
        inputs={"rgb@224": few, "caption": (5.0, 0.2, 1.0), **dict.fromkeys(names, few)},
        targets={"rgb@224": (0.0, 0.0, 0.0), **dict.fromkeys((*names, "caption"), (1.0, 1.0, 1.0))},
        keep={"caption": ("all", "random", "random"), "det": ("random", "random", "random")},
        given=(64, 256), asked=(256, 256),
    )  # fmt: skip


def larger() -> MaskedModalityModeling:
    """Ids at 448 pixels, a quarter of the samples from ids of pictures at 224 for the most part."""
    few = (0.05, 0.05, 0.2, 1.0)
    named = {f"{name}@{side}": few for name in ("rgb", *DENSE) for side in (224, 448)}
    return MaskedModalityModeling(
        inputs={**named, "det": few, "caption": (0.05, 5.0, 0.2, 1.0),
                **dict.fromkeys(("tok_rgb@224", "tok_rgb@448"), (5.0, 0.05, 0.2, 1.0))},
        targets={**dict.fromkeys(at_side(448), (0.05, 1.0, 1.0, 1.0)), "tok_rgb@448": (5.0, 1.0, 1.0, 1.0)},
        keep={"caption": ("random", "all", "random", "random"), "det": ("random",) * 4},
        given=(64, 1024), asked=(1024, 1024),
    )  # fmt: skip


CC12M = DataSource(name="CC12M with labels of other models", kind=KIND)

RECIPE = (
    Stage(
        name="codec",
        data=(DataSource(name="ImageNet or CC12M, by modality", kind=KIND),),
        objective=FeatureCoding(),
        train=("reader", "writer", "to_code", "from_code", "class_embedding"),
        optimizer=AdamW(lr=None, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, clip=1.0),
        schedule=Cosine(),
        budget=Budget(),
        start="scratch",
        note="a codec for each modality; the rate is 1e-4 for 256 samples (5e-5 at sides drawn from 224 to 448), how "
        "many processes shared a batch is not told; classes, features, masks and poses are written by these",
    ),
    Stage(
        name="diffusion-codec",
        data=(DataSource(name="ImageNet or CC12M, by modality", kind=KIND),),
        objective=DiffusionCoding(),
        train=("reader", "writer", "to_code"),
        optimizer=AdamW(lr=None, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05, clip=1.0),
        schedule=Cosine(),
        budget=Budget(),
        start="scratch",
        note="codecs of pixels, depth, normals and edges; the rate is 1e-4 for 256 samples (edges 5e-5), then 5e-5 at "
        "sides drawn from 224 to 448 (depth 1e-4), how many processes shared a batch is not told; distances are "
        "squared, of depth and edges smooth",
    ),
    Stage(
        name="pretrain-7",
        data=(CC12M,),
        objective=pretraining(),
        train=ALL,
        optimizer=AdamW(lr=3.2e-3, **OPTIMIZER),
        schedule=Cosine(warmup_ratio=0.02),
        budget=Budget(batch=8192, steps=238_419, precision="bfloat16"),
        start="scratch",
        note="500 billion tokens, 10 of them warm-up; the COYO700M models read that set alone",
    ),
    Stage(
        name="pretrain-21",
        data=(
            DataSource(name="CC12M with labels of other models", kind=KIND, share=0.6),
            DataSource(name="COYO700M, the seven modalities", kind=KIND, share=0.2),
            DataSource(name="C4, words alone", kind="text", share=0.2),
        ),
        objective=twenty_one(),
        train=ALL,
        optimizer=AdamW(lr=1.6e-3, **OPTIMIZER),
        schedule=Cosine(warmup_ratio=0.02),
        budget=Budget(batch=4096, steps=238_419, precision="bfloat16"),
        start="pretrain-7",
        note="C4 alone: concentration 1 for words read and written; the mixture of COYO700M is not in the repository",
    ),
    Stage(
        name="text-to-image",
        data=(CC12M,),
        objective=from_words(),
        train=ALL,
        optimizer=AdamW(lr=1.6e-3, **OPTIMIZER),
        schedule=Cosine(warmup_ratio=0.1),
        budget=Budget(batch=4096, steps=47_684, precision="bfloat16"),
        start="pretrain-7",
        note="100 billion tokens; the 4M-7-T2I models",
    ),
    Stage(
        name="super-resolution",
        data=(CC12M,),
        objective=larger(),
        train=ALL,
        optimizer=AdamW(lr=1.6e-3, clip=3.0, **OPTIMIZER),
        schedule=Cosine(warmup_ratio=0.05),
        budget=Budget(batch=4096, steps=11_921, precision="bfloat16"),
        start="pretrain-7",
        note="100 billion tokens, 5 of them warm-up; modalities at 448 pixels begin anew",
    ),
)
