"""Early fusion and a support vector machine: sarcasm in sitcoms, the baseline that came with MUStARD.

    text (BERT-base, mean of the last four layers at [CLS], 768) ┐
    video (ResNet-152 pool5, mean over frames, 2048)             ├> side by side, 3099 -> z-scores -> SVC, RBF kernel
    audio (librosa, 283 rows, mean over windows)                 ┘

Paper: Towards Multimodal Sarcasm Detection (arXiv 1906.01815).  Code: soujanyaporia/MUStARD (MIT).  No machine was
published; what trains one is scikit-learn's SVC, whose attributes are the names on disk.
Traps: speaker-independent runs do not scale, and take shows other than Friends to train; the folds are those of the
published split_indices.p; audio features are [283, windows] in the published pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints.method_config import method_config
from polymodal.models.kernel_machine import KernelMachineConfig
from polymodal.systems import (
    SGD,
    Budget,
    CheckpointFormat,
    Constant,
    DataSource,
    ModelSpec,
    Part,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.train.support_vectors import SupportVectors
from polymodal.weights.keytable import KeyTable, rename

WIDTHS = {"text": 768, "vision": 2048, "audio": 283}
KEYS = KeyTable(
    (
        rename("mean_", "mean"),
        rename("scale_", "scale"),
        rename("support_vectors_", "vectors"),
        rename("dual_coef_", "coefficients"),
        rename("intercept_", "bias"),
        rename("_gamma", "gamma"),
    )
)
"""The attributes of StandardScaler and SVC -> ours."""


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """features: width by part, in the order in which they lie side by side; vectors: how many."""
    shape = method_config(KernelMachineConfig, config, "early-fusion-svm")
    parts = ", ".join(f"{name} {width}" for name, width in shape.features.items())
    drawing = (
        Part(slot="backbone", name="support vectors, Gaussian kernel", prefix="vectors",
             input=f"[B, {shape.width}] ({parts})", output="decision [B]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(KEYS,), parts=drawing)


def published(vectors: int, *parts: str) -> dict[str, Any]:
    """A setting of the paper; vectors: the training utterances, none of which may have a coefficient of 0."""
    return {"model_type": "early_fusion_svm", "features": {name: WIDTHS[name] for name in parts}, "vectors": vectors}


def stage(name: str, cost: float, scaled: bool, samples: int, note: str) -> Stage:
    return Stage(
        name=name,
        data=(DataSource(name="MUStARD", kind="labelled sequences", samples=samples),),
        objective=SupportVectors(cost=cost, scaled=scaled),
        train=("vectors", "coefficients", "bias", "gamma", "mean", "scale"),
        optimizer=SGD(lr=1.0, momentum=0.0),
        schedule=Constant(),
        budget=Budget(batch=samples, steps=2),
        start="scratch",
        note=f"{note}; solved on the host in the first step, whatever the rate; other settings differ in C alone",
    )


SYSTEM = System(
    id="early-fusion-svm",
    aliases=("Early fusion + SVM", "MUStARD baseline", "Early fusion SVM"),
    year=2019,
    fusion=("method",),
    assembly="KernelMachine",
    inputs=("text", "audio", "video"),
    outputs=("sarcasm",),
    headline="sarcasm from averaged features of words, voice and frames, side by side in a kernel machine",
    reference="arXiv 1906.01815",
    formats=(
        CheckpointFormat(name="arrays of scikit-learn", matches=hf("early_fusion_svm"), parse_config=parse_config),
    ),
    variants=(
        Variant(name="tav", parameters=1_717_400, config=published(552, "text", "vision", "audio")),
        Variant(name="i-tav", parameters=1_041_600, config=published(334, "text", "vision", "audio")),
        Variant(name="tv", parameters=1_560_618, config=published(552, "text", "vision")),
    ),
    recipe=(
        stage("speaker-dependent", 10.0, True, 552, "four of five published folds"),
        stage("speaker-independent", 1000.0, False, 334, "all shows but Friends"),
    ),
)
