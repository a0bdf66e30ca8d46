"""The two-layer connector as LLaVA's checkpoints describe and name it.

config {"projector_hidden_act", "multimodal_projector_bias"} -> MLPConnectorConfig
library names linear_1, linear_2;  official names 0, 2 (the activation between them counts)
"""

import re
from collections.abc import Mapping
from typing import Any

from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


def parse_config(config: Mapping[str, Any]) -> MLPConnectorConfig:
    """The connector of a LLaVA-like config, with the library's defaults for absent keys."""
    return MLPConnectorConfig(
        activation=config.get("projector_hidden_act", "gelu"), bias=bool(config.get("multimodal_projector_bias", True))
    )


def _table(first: str, second: str) -> KeyTable:
    names = {first: "layers.0", second: "layers.1"}
    return KeyTable.of({f"{a}.{leaf}": f"{b}.{leaf}" for a, b in names.items() for leaf in ("weight", "bias")})


HF_KEYS = _table("linear_1", "linear_2")
"""Names of the transformers library (without the prefix `multi_modal_projector.`) -> ours."""


def official(kind: str) -> tuple[MLPConnectorConfig, KeyTable]:
    """The connector that official code calls "linear", "mlp2x_gelu", ... and its names behind `model.mm_projector`.

    Raises ConfigError for other kinds.
    """
    found = re.fullmatch(r"linear|mlp([1-9]\d*)x_gelu", kind)
    if found is None:
        raise ConfigError(f"mm_projector_type {kind!r} is not supported; expected linear or mlp<depth>x_gelu")
    depth = int(found[1] or 1)
    # Linears and activations are counted together; a single linear of the kind "linear" has no number.
    places = [""] if found[1] is None else [f".{2 * index}" for index in range(depth)]
    rows = {f"{place}.{leaf}": f"layers.{i}.{leaf}" for i, place in enumerate(places) for leaf in ("weight", "bias")}
    return MLPConnectorConfig(depth=depth), KeyTable.of(rows)


_IN_MEMORY = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    **{
        name: f"model.{name}"
        for name in ("vision_tower.", "multi_modal_projector.", "image_newline", "language_model.")
    },
}


def both_spellings(tables: tuple[KeyTable, ...]) -> tuple[KeyTable, ...]:
    """Tables of whole LLaVA checkpoints as published, and as the library names the same tensors in memory."""
    return (*tables, *(table.respelled(_IN_MEMORY) for table in tables))
