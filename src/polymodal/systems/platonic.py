"""Platonic: how far two models agree on which things are alike, measured by the neighbours that samples have in each.

Paper: The Platonic Representation Hypothesis (arXiv 2405.07987).  Code: minyoungg/platonic-rep.

    pictures -> vision model   -> [N, Lx, D] of all blocks --|  outliers clamped, vectors of length 1
    captions -> language model -> [N, Ly, E] of all layers --|  -> k nearest neighbours in each -> share in common
                                                                -> the largest over all pairs of layers

Nothing is learned and no weights belong to it; the paper's pairs are 1024 pictures and captions of Wikipedia.  Its
config is the options of the official script: metric, topk, whether the limit of outliers is exact.
Traps: the vision features are the class token of each block before the final norm, those of language the mean over
tokens of all hidden states with the embeddings; chance is k / (N - 1) for one pair of layers, and more for the best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from polymodal.errors import ConfigError
from polymodal.models.representation_alignment import RepresentationAlignmentConfig
from polymodal.nn.representation_similarity import METRICS
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    LoadOptions,
    ModelSpec,
    Part,
    System,
    Variant,
    hf,
)
from polymodal.weights.keytable import KeyTable

OPTIONS = tuple(each.name for each in fields(RepresentationAlignmentConfig))


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The options, with the official defaults.  Raises ConfigError for another one."""
    given = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    if unknown := sorted(set(given) - set(OPTIONS)):
        raise ConfigError(f"platonic: does not know the option {unknown[0]!r}; it takes {', '.join(OPTIONS)}")
    shape = RepresentationAlignmentConfig(**given)
    drawing = (
        Part(slot="encoder", name="vision model of the caller", prefix="", input="[N, 3, H, W]",
             output="[N, layers, width]", modality="image"),
        Part(slot="encoder", name="language model of the caller", prefix="", input="[N, T] ids",
             output="[N, layers, width]"),
        Part(slot="connector", name=f"{shape.metric} of every pair of layers", prefix="", input="two sets of features",
             output="alignment, best pair of layers"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(KeyTable(()),), parts=drawing)


def no_weights(files: CheckpointFiles) -> dict[str, Any]:
    """What a folder holds beside its config."""
    return {}


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    """The measure itself: there is nothing to fetch."""
    return LoadedModel(model=parse_config(variant.config or {}).build().to(options.device), processor=None)


def variant(metric: str) -> Variant:
    config = {"model_type": "platonic", "metric": metric, "topk": 10, "quantile": 0.95, "exact": True}
    return Variant(name=metric.replace("_", "-"), parameters=0, config=config)


SYSTEM = System(
    id="platonic",
    aliases=("Platonic Representation Hypothesis", "Platonic Representation Hypothesis (alignment metric)"),
    year=2024,
    fusion=("method",),
    assembly="RepresentationAlignment",
    inputs=("features of one model", "features of another"),
    outputs=("alignment", "best pair of layers"),
    headline="mutual nearest-neighbour alignment of two models on paired data, by one command",
    reference="arXiv 2405.07987",
    formats=(
        CheckpointFormat(
            name="options of platonic-rep", matches=hf("platonic"), parse_config=parse_config, gather=no_weights
        ),
    ),
    load=load,
    variants=tuple(variant(metric) for metric in METRICS),
)
