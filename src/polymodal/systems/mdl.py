"""MDL: depression of Twitter users, from joint sparse codes of six groups of features.

    social network, profile, visual, emotional, topic, symptoms: a vector each of four weeks of tweets
    -> z-scores -> a dictionary for each group, codes that use the same atoms in all -> logistic regression

Paper: Depression Detection via Harvesting Social Media: A Multimodal Dictionary Learning Solution (IJCAI 2017).  No
code, weights or sizes were published.
Traps: means and deviations belong to the model; how many atoms, and the weights of the penalties, are the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints.method_config import method_config
from polymodal.models.joint_dictionary import JointDictionaryConfig
from polymodal.systems import (
    Adam,
    Budget,
    CheckpointFormat,
    Classification,
    Constant,
    DataSource,
    ModelSpec,
    Part,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.train.dictionary import Dictionaries
from polymodal.weights.keytable import KeyTable, rename


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """features: width by group; atoms; joint and ridge: weights of the penalties."""
    shape = method_config(JointDictionaryConfig, config, "mdl")
    tables = [f"{what}.{name}" for name in shape.features for what in ("mean", "scale", "atoms")]
    keys = KeyTable(tuple(rename(name, name) for name in (*tables, "head.weight", "head.bias")))
    widths = ", ".join(f"{name} {width}" for name, width in shape.features.items())
    drawing = (
        Part(slot="encoder", name="joint sparse codes", prefix="atoms", input=f"vectors [B, F] ({widths})",
             output=f"{len(shape.features)} codes [B, {shape.atoms}]"),
        Part(slot="backbone", name="logistic regression", prefix="head", output="logit [B, 1]",
             input=f"[B, {len(shape.features) * shape.atoms}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(keys,), parts=drawing)


WIDTHS = {"social": 27, "profile": 4, "visual": 19, "emotional": 6, "topic": 25, "symptoms": 10}
"""An example after the six groups of the paper: no width here is published."""
DATA = (DataSource(name="D1 and D2 of Twitter", kind="labelled sequences"),)

SYSTEM = System(
    id="mdl",
    aliases=("MDL", "Multimodal Depressive Dictionary Learning"),
    year=2017,
    fusion=("method",),
    assembly="JointDictionary",
    inputs=("text", "image", "features"),
    outputs=("depression",),
    headline="depression of a user, from atoms that six groups of features use together",
    reference="IJCAI 2017, Depression Detection via Harvesting Social Media",
    formats=(
        CheckpointFormat(name="own names (nothing was published)", matches=hf("mdl"), parse_config=parse_config),
    ),
    variants=(
        Variant(name="example", parameters=3_287, config={"model_type": "mdl", "features": WIDTHS, "atoms": 32}),
    ),
    recipe=(
        Stage(
            name="dictionaries",
            data=DATA,
            objective=Dictionaries(),
            train=("atoms",),
            optimizer=Adam(lr=None),
            schedule=Constant(),
            budget=Budget(),
            start="scratch",
            note="rates, sizes and steps were not published",
        ),
        Stage(
            name="classifier",
            data=DATA,
            objective=Classification(),
            train=("head",),
            optimizer=Adam(lr=None),
            schedule=Constant(),
            budget=Budget(),
            start="dictionaries",
            note="rates and steps were not published",
        ),
    ),
)  # fmt: skip
