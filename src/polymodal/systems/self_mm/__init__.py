"""Self-MM: sentiment of videos from words, voice and face, with labels of each modality made while it trains.

    text ids -> BERT, first token [B, 768] ┐
    audio [B, Ta, 5] -> LSTM -> [B, 16]    ├-> concatenated [B, 816] -> head -> score;  each alone -> head -> its score
    vision [B, Tv, 20] -> LSTM -> [B, 32]  ┘

Paper: Self-MM (arXiv 2102.04830).  Code: thuiar/Self-MM and thuiar/MMSA (MIT), whose state dicts are read, with the
prefix `Model.` or without.  No weights were published.
Traps: heads of BERT are not written in a file (64 numbers each are taken); neither are dropout and whether data are
aligned; MMSA reads lengths of audio and vision from the file unless data are aligned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones import encoder
from polymodal.checkpoints.method_config import method_config
from polymodal.models.self_mm import HEARD, OFFICIAL_KEYS, SelfMMConfig
from polymodal.systems import CheckpointFormat, ModelSpec, Part, System, Variant, hf
from polymodal.systems.self_mm.recipe import RECIPE

Shapes = Mapping[str, Sequence[int]]
NAMES = {"audio": "audio_model", "vision": "video_model"}
BERT = "text_model.model."


def read_shapes(shapes: Shapes) -> dict[str, Any] | None:
    """The config of an MMSA state dict, None for another's."""
    plain = {name.removeprefix("Model."): shape for name, shape in shapes.items()}
    needed = ("video_model.rnn.weight_ih_l0", "post_video_layer_1.weight", f"{BERT}embeddings.word_embeddings.weight")
    if any(name not in plain for name in needed):
        return None
    words, width = plain[f"{BERT}embeddings.word_embeddings.weight"]
    layers = {int(name.split(".")[4]) for name in plain if name.startswith(f"{BERT}encoder.layer.")}
    text = {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": plain[f"{BERT}encoder.layer.0.intermediate.dense.weight"][0],
        "max_position_embeddings": plain[f"{BERT}embeddings.position_embeddings.weight"][0],
    }
    return {
        "model_type": "self_mm",
        "text_config": text,
        "features": {name: plain[f"{each}.rnn.weight_ih_l0"][1] for name, each in NAMES.items()},
        "states": {name: plain[f"{each}.rnn.weight_hh_l0"][1] for name, each in NAMES.items()},
        "outputs": {name: plain[f"{each}.linear_1.weight"][0] for name, each in NAMES.items()},
        "heads": {
            "fusion": plain["post_fusion_layer_1.weight"][0],
            "text": plain["post_text_layer_1.weight"][0],
            "audio": plain["post_audio_layer_1.weight"][0],
            "vision": plain["post_video_layer_1.weight"][0],
        },
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand, with `aligned` and `dropout` where they are wanted."""
    text = encoder.parse_config(config.get("text_config", {}))
    given = {name: value for name, value in config.items() if name != "text_config"}
    shape = method_config(SelfMMConfig, given, "self-mm", text=text)
    width = text.width
    heard = [
        Part(slot="encoder", name="LSTM, last real step", prefix=name, modality=name.replace("vision", "video"),
             input=f"[B, T, {shape.features[name]}]", output=f"[B, {shape.outputs[name]}]")
        for name in HEARD
    ]  # fmt: skip
    drawing = (
        Part(slot="encoder", name="BERT, first token", prefix="text", input="ids [B, T]", output=f"[B, {width}]"),
        *heard,
        Part(slot="backbone", name="heads: of all together, of each alone", prefix="heads",
             input=f"[B, {width + sum(shape.outputs.values())}], and each part", output="four scores [B]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(OFFICIAL_KEYS, OFFICIAL_KEYS.prefixed("Model.")), parts=drawing)


def published(audio: int, vision: int, **changes: Any) -> dict[str, Any]:
    """A setting of MMSA's config_regression.json; audio, vision: width of their features."""
    made: dict[str, Any] = {
        "model_type": "self_mm",
        "text_config": {},
        "features": {"audio": audio, "vision": vision},
        "states": {"audio": 16, "vision": 32},
        "outputs": {"audio": 16, "vision": 32},
        "heads": {"fusion": 128, "text": 32, "audio": 16, "vision": 32},
        "dropout": {"fusion": 0.0, "text": 0.1, "audio": 0.1, "vision": 0.0},
    }
    return made | changes


MOSEI = {"dropout": {"fusion": 0.1, "text": 0.0, "audio": 0.0, "vision": 0.0}}
SIMS = {
    "text_config": {"vocab_size": 21_128},
    "states": {"audio": 16, "vision": 64},
    "heads": {"fusion": 128, "text": 64, "audio": 16, "vision": 32},
}
SYSTEM = System(
    id="self-mm",
    aliases=("Self-MM", "SELF_MM"),
    year=2021,
    fusion=("method",),
    assembly="SelfMM",
    inputs=("text", "audio", "video"),
    outputs=("score",),
    headline="sentiment scores of three modalities together and of each alone, from labels of all together",
    reference="arXiv 2102.04830",
    formats=(
        CheckpointFormat(
            name="MMSA SELF_MM",
            matches=hf("self_mm"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("", "state_dict"),
        ),
    ),
    variants=(
        Variant(name="mosi", parameters=109_641_572, config=published(5, 20)),
        Variant(name="mosei", parameters=109_647_908, config=published(74, 35, **MOSEI)),
        Variant(name="sims", parameters=102_649_028, config=published(33, 709, **SIMS)),
    ),
    recipe=RECIPE,
)
