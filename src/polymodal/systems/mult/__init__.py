"""MulT: sentiment from words, voice and face whose time lines need not agree.

    text [B, 50, 300], audio [B, Ta, 74], vision [B, Tv, 35] -> convolution to 30 -> six directional cross-modal
    transformers -> three memories -> last steps [B, 180] -> residual block -> score, or emotion logits

Paper: MulT (arXiv 1906.00295).  Code: yaohungt/Multimodal-Transformer (MIT); MMSA's MULT holds the same model under
`Model.`.  No weights are published beyond links in the README.
Traps: MMSA's copy has no positions, and its names show that.  Neither heads nor the mask are written in a file: taken
are 5 heads (official), or 6 for width 30 and 10 for width 50 (MMSA), and the mask.  The official script pickles the
whole module; save its state dict instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.errors import ConfigError
from polymodal.models.sequence_fusion import MODALITIES, SequenceFusionConfig, official_keys
from polymodal.systems import CheckpointFormat, ModelSpec, Part, System, Variant, hf
from polymodal.systems.mult.recipe import RECIPE

Shapes = Mapping[str, Sequence[int]]
LETTERS = dict(zip("lav", MODALITIES, strict=True))
MMSA_HEADS = {30: 6, 50: 10}


def read_shapes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an official or MMSA state dict, None for another's."""
    plain = {name.removeprefix("Model."): shape for name, shape in shapes.items()}
    if any(name not in plain for name in ("proj_l.weight", "proj_a.weight", "proj_v.weight", "out_layer.weight")):
        return None
    convolutions = {name: plain[f"proj_{letter}.weight"] for letter, name in LETTERS.items()}
    width = convolutions["text"][0]
    targets = [name for letter, name in LETTERS.items() if any(x.startswith(f"trans_{letter}_with") for x in plain)]
    if not targets:
        return None
    first = next(x for x in plain if x.startswith("trans_") and "_with_" in x).split(".")[0]
    depth = 1 + max(int(x.split(".")[2]) for x in plain if x.startswith(f"{first}.layers."))
    kernels = {name: shape[2] for name, shape in convolutions.items()}
    positions = any(name.endswith("embed_positions._float_tensor") for name in plain)
    return {
        "model_type": "mult",
        "features": {name: shape[1] for name, shape in convolutions.items()},
        "kernels": kernels,
        "width": width,
        "heads": 5 if positions else MMSA_HEADS.get(width, 5),
        "positions": positions,
        "depth": depth,
        "outputs": plain["out_layer.weight"][0],
        "targets": targets,
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand, with `future_mask` False for a model without it."""
    known = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    try:
        shape = SequenceFusionConfig(**{**known, "targets": tuple(known.get("targets", MODALITIES))})
    except TypeError as problem:
        raise ConfigError(f"mult: {problem}") from problem
    keys, width = official_keys(shape), shape.width
    drawing = (
        Part(slot="connector", name="convolutions over time", prefix="proj", input="[B, T, F] of each modality",
             output=f"[B, T, {width}]"),
        Part(slot="backbone", name="directional cross-modal transformers", prefix="cross", input="two sequences",
             output=f"[B, T, {width}]"),
        Part(slot="backbone", name="memories", prefix="memory", input=f"[B, T, {2 * width}]",
             output=f"[B, {2 * width}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(keys, keys.prefixed("Model.")), parts=drawing)


def published(features: tuple[int, int, int], outputs: int = 1, **more: Any) -> dict[str, Any]:
    """A published setting; `features` of text, audio, vision."""
    sizes = dict(zip(MODALITIES, features, strict=True))
    return {"model_type": "mult", "features": sizes, "outputs": outputs, **more}


def _mmsa(features: tuple[int, int, int], width: int, heads: int, depth: int, kernels: tuple[int, int, int]) -> dict:
    steps = dict(zip(MODALITIES, kernels, strict=True))
    return published(features, width=width, heads=heads, depth=depth, kernels=steps, positions=False)


SYSTEM = System(
    id="mult",
    aliases=("MulT", "MulT (Multimodal Transformer for unaligned sequences)", "Multimodal Transformer"),
    year=2019,
    fusion=("method",),
    assembly="SequenceFusion",
    inputs=("text", "audio", "video"),
    outputs=("score", "emotion"),
    headline="six directional cross-modal transformers that need no word alignment",
    reference="arXiv 1906.00295",
    formats=(
        CheckpointFormat(
            name="official MulT and MMSA",
            matches=hf("mult"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("", "state_dict"),
        ),
    ),
    variants=(
        Variant(name="mosei", parameters=1_073_731, config=published((300, 74, 35))),
        Variant(name="iemocap", parameters=1_074_998, config=published((300, 74, 35), 8)),
        Variant(name="mmsa-mosi", parameters=2_571_551, config=_mmsa((768, 5, 20), 50, 10, 4, (5, 5, 5))),
        Variant(name="mmsa-mosei", parameters=982_951, config=_mmsa((768, 74, 35), 30, 6, 4, (5, 1, 3))),
    ),
    recipe=RECIPE,
)
