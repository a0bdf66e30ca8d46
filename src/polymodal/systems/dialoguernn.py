"""DialogueRNN: emotion in conversations, from states of the dialogue, of each speaker and of the emotion.

    utterances [B, T, 100] and who says them -> global, party and emotion GRUs, in both directions -> [B, T, 600]
    -> attention of each utterance over all -> linear, ReLU -> logits [B, T, 6]

Paper: DialogueRNN (arXiv 1811.00405).  Code: declare-lab/conv-emotion, DialogueRNN (MIT), whose BiModel's state dict is
read.  No weights were published; features are (IEMOCAP and MELD pickles).
Traps: of IEMOCAP only the text's vectors are used; MELD's script lays text and audio side by side; the published scores
are of the epoch with the best loss on the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.checkpoints.method_config import method_config
from polymodal.models.dialogue_rnn import DialogueRNNConfig, official_keys
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
from polymodal.train.affect import UtteranceClasses

CELL = "dialog_rnn_f.dialogue_cell"
IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
SHARES = (0.086747, 0.144406, 0.227883, 0.160585, 0.127711, 0.252668)
"""How many of IEMOCAP's utterances are of each class."""


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official state dict, None for another's."""
    needed = (f"{CELL}.g_cell.weight_ih", "dialog_rnn_r.dialogue_cell.g_cell.weight_ih", "smax_fc.weight")
    if any(name not in shapes for name in needed):
        return None
    party = shapes[f"{CELL}.p_cell.weight_hh"][1]
    simple, bias = f"{CELL}.attention.scalar.weight" in shapes, f"{CELL}.attention.transform.bias" in shapes
    return {
        "model_type": "dialoguernn",
        "features": {"text": shapes[f"{CELL}.g_cell.weight_ih"][1] - party},
        "classes": shapes["smax_fc.weight"][0],
        "common": shapes[f"{CELL}.g_cell.weight_hh"][1],
        "party": party,
        "emotion": shapes[f"{CELL}.e_cell.weight_hh"][1],
        "hidden": shapes["smax_fc.weight"][1] // 2,
        "attention": "simple" if simple else "general2" if bias else "general",
        "active_listeners": f"{CELL}.l_cell.weight_ih" in shapes,
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand, with `parties` where more than two speak."""
    shape = method_config(DialogueRNNConfig, config, "dialoguernn")
    named = ", ".join(f"{name} {width}" for name, width in shape.features.items())
    cells = [
        Part(slot="backbone", name=f"global, party and emotion GRUs, {prefix}", prefix=prefix,
             input=f"[B, T, {shape.width}] ({named}), speakers [B, T]", output=f"[B, T, {shape.emotion}]")
        for prefix in ("forwards", "backwards")
    ]  # fmt: skip
    ends = (
        Part(slot="backbone", name="attention over all utterances", prefix="attention",
             input=f"[B, T, {2 * shape.emotion}]", output=f"[B, T, {2 * shape.emotion}]"),
        Part(slot="backbone", name="classifier", prefix="head", input=f"[B, T, {2 * shape.hidden}]",
             output=f"logits [B, T, {shape.classes}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(official_keys(shape),), parts=(*cells, *ends))


def published(classes: int, features: dict[str, int], **more: Any) -> dict[str, Any]:
    return {"model_type": "dialoguernn", "features": features, "classes": classes, **more}


MELD = {"common": 150, "party": 150, "emotion": 100, "hidden": 100, "parties": 9}
SYSTEM = System(
    id="dialoguernn",
    aliases=("DialogueRNN", "BiDialogueRNN"),
    year=2018,
    fusion=("method",),
    assembly="DialogueRNN",
    inputs=("text", "audio"),
    outputs=("emotion",),
    headline="an emotion for each utterance of a dialogue, from states of its speakers",
    reference="arXiv 1811.00405",
    formats=(
        CheckpointFormat(
            name="conv-emotion BiModel",
            matches=hf("dialoguernn"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("", "state_dict"),
        ),
    ),
    variants=(
        Variant(name="iemocap", parameters=8_880_406, config=published(6, {"text": 100})),
        Variant(name="meld-text", parameters=2_036_607, config=published(7, {"text": 600}, **MELD)),
        Variant(name="meld-audio", parameters=1_406_607, config=published(7, {"audio": 300}, **MELD)),
        Variant(name="meld", parameters=2_666_607, config=published(7, {"text": 600, "audio": 300}, **MELD)),
    ),
    recipe=(
        Stage(
            name="train",
            data=(DataSource(name="IEMOCAP", kind="labelled sequences", samples=120),),
            objective=UtteranceClasses(weights=tuple(1 / share for share in SHARES)),
            train=("forwards", "backwards", "attention", "linear", "head"),
            optimizer=Adam(lr=1e-4, weight_decay=1e-5),
            schedule=Constant(),
            budget=Budget(batch=30, epochs=60),
            start="scratch",
            note="samples are dialogues; biases are decayed there too.  MELD: rate 5e-4, classes weighted alike",
        ),
    ),
)
