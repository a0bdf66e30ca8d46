"""MTFN of CH-SIMS, with TFN and LMF: products of modalities, and scores of single ones that have labels of their own.

    text [B, 39, 768] -> LSTM -> [B, 256]          ┐
    audio [B, T, 33] -> mean, MLP -> [B, 32]       ├-> 1 in front -> outer product, 2,179,617 numbers -> head -> score
    vision [B, T, 709] -> mean, MLP -> [B, 256]    ┘   each alone -> head -> its score (MTFN)

Papers: CH-SIMS (ACL 2020), TFN (arXiv 1707.07250), LMF (1806.00064).  Code: thuiar/MMSA (MIT), whose state dicts are
read, with the prefix `Model.` or without.  No weights were published.
Traps: padded lengths (`seq_lens`) and dropout are in no file; the bounds -3 .. 3 hold for SIMS too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.checkpoints.method_config import method_config
from polymodal.models.score_head import OFFICIAL
from polymodal.models.tensor_fusion import TensorFusionConfig, official_keys
from polymodal.systems import (
    Adam,
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
from polymodal.train.affect import TaskScores

SEQUENCES = {"mosi": (50, 500, 375), "mosei": (50, 500, 375), "sims": (39, 400, 55)}
FEATURES = {"mosi": (768, 5, 20), "mosei": (768, 74, 35), "sims": (768, 33, 709)}
NAMES = ("text", "audio", "vision")


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an MMSA state dict, None for another's."""
    plain = {name.removeprefix("Model."): shape for name, shape in shapes.items()}
    needed = ("audio_subnet.norm.weight", "video_subnet.norm.weight", "text_subnet.rnn.weight_hh_l0")
    if any(name not in plain for name in needed):
        return None
    made: dict[str, Any] = {
        "model_type": "mtfn",
        "features": {
            "text": plain["text_subnet.rnn.weight_ih_l0"][1],
            "audio": plain["audio_subnet.norm.weight"][0],
            "vision": plain["video_subnet.norm.weight"][0],
        },
        "hidden": {
            "text": plain["text_subnet.rnn.weight_hh_l0"][1],
            "audio": plain["audio_subnet.linear_1.weight"][0],
            "vision": plain["video_subnet.linear_1.weight"][0],
        },
        "text_out": plain["text_subnet.linear_1.weight"][0],
    }
    if "fusion_weights" in plain:
        return made | {"rank": plain["fusion_weights"][1]}
    heads = {name: f"post_{source}_layer_1.weight" for name, source in OFFICIAL.items()}
    return made | {"heads": {name: plain[layer][0] for name, layer in heads.items() if layer in plain}}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand, with `seq_lens` and `dropout` where they are wanted."""
    shape = method_config(TensorFusionConfig, config, "mtfn")
    keys, widths = official_keys(shape), shape.outputs
    inner = {"text": "LSTM, last state", "audio": "mean over time, MLP", "vision": "mean over time, MLP"}
    encoders = [
        Part(slot="encoder", name=inner[name], prefix=name, modality=name.replace("vision", "video"),
             input=f"[B, T, {shape.features[name]}]", output=f"[B, {widths[name]}]")
        for name in NAMES
    ]  # fmt: skip
    product = " x ".join(str(width + 1) for width in widths.values())
    fused = (
        Part(slot="backbone", name=f"low-rank product, rank {shape.rank}", prefix="low_rank", input="three vectors",
             output="score [B, 1]")
        if shape.rank
        else Part(slot="backbone", name="outer product and heads", prefix="heads", input=f"[B, {product}]",
                  output=f"{len(shape.heads)} scores [B]")
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(keys, keys.prefixed("Model.")), parts=(*encoders, fused))


def published(data: str, hidden: tuple[int, int, int], text_out: int, **more: Any) -> dict[str, Any]:
    """A setting of MMSA's config_regression.json; hidden: of text, audio, vision."""
    tables = {"features": FEATURES[data], "hidden": hidden, "seq_lens": SEQUENCES[data]}
    named = {name: dict(zip(NAMES, values, strict=True)) for name, values in tables.items()}
    return {"model_type": "mtfn", "text_out": text_out, **named, **more}


def drop(text: float, audio: float, vision: float, *heads: float) -> dict[str, float]:
    """Dropout by modality, and of the heads of fusion, text, audio, vision."""
    ends = (f"{name}_head" for name in OFFICIAL)
    return {"text": text, "audio": audio, "vision": vision, **dict(zip(ends, heads, strict=False))}


SYSTEM = System(
    id="mtfn",
    aliases=("MTFN", "CH-SIMS", "MTFN (CH-SIMS)", "TFN", "LMF"),
    year=2020,
    fusion=("method",),
    assembly="TensorFusion",
    inputs=("text", "audio", "video"),
    outputs=("score",),
    headline="the outer product of three modalities, with a head for each that learns its own labels",
    reference="arXiv 1707.07250",
    formats=(
        CheckpointFormat(
            name="MMSA MTFN, TFN and LMF", matches=hf("mtfn"), parse_config=parse_config, infer=read_shapes,
            entry=("", "state_dict"),
        ),
    ),
    variants=(
        Variant(name="mtfn-sims", parameters=140_957_190, config=published(
            "sims", (256, 32, 256), 256, heads={"fusion": 64, "text": 64, "audio": 4, "vision": 8},
            dropout=drop(0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2))),
        Variant(name="tfn-mosi", parameters=9_497_045, config=published(
            "mosi", (128, 32, 128), 32, heads={"fusion": 64}, dropout=drop(0.3, 0.3, 0.3, 0.5))),
        Variant(name="tfn-mosei", parameters=5_042_541, config=published(
            "mosei", (128, 16, 128), 128, heads={"fusion": 16}, dropout=drop(0.4, 0.4, 0.4, 0.4))),
        Variant(name="tfn-sims", parameters=35_632_079, config=published(
            "sims", (128, 32, 128), 256, heads={"fusion": 32}, dropout=drop(0.4, 0.4, 0.4, 0.4))),
        Variant(name="lmf-mosi", parameters=505_071, config=published(
            "mosi", (128, 16, 128), 64, rank=3, dropout=drop(0.3, 0.3, 0.3))),
        Variant(name="lmf-mosei", parameters=508_475, config=published(
            "mosei", (128, 16, 128), 64, rank=4, dropout=drop(0.2, 0.2, 0.2))),
        Variant(name="lmf-sims", parameters=272_381, config=published(
            "sims", (64, 16, 64), 32, rank=4, dropout=drop(0.2, 0.2, 0.2))),
    ),
    recipe=(
        Stage(
            name="train",
            data=(DataSource(name="CH-SIMS", kind="labelled sequences", samples=1_368),),
            objective=TaskScores(weights={"score": 0.6, "text": 0.4, "audio": 0.0, "vision": 1.0}),
            train=("text", "audio", "vision", "heads"),
            optimizer=Adam(lr=5e-3, weight_decay=1e-3, undecayed=("audio", "vision", "heads")),
            schedule=Constant(),
            budget=Budget(batch=64),
            start="scratch",
            note="MTFN; decay 1e-4 of audio and 1e-5 of vision besides; ends 8 epochs after the best validation loss",
        ),
    ),
)  # fmt: skip
