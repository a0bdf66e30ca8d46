"""The MLP connector of LLaVA checkpoints: config parsers and key tables.

config {"projector_hidden_act", "multimodal_projector_bias"} -> MLPConnectorConfig
transformers' names linear_1, linear_2;  official names 0, 2 (activations are numbered too)
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


def parse_config(config: Mapping[str, Any]) -> MLPConnectorConfig:
    """The connector of a LLaVA-like config; absent keys take transformers' defaults."""
    return MLPConnectorConfig(
        activation=config.get("projector_hidden_act", "gelu"), bias=bool(config.get("multimodal_projector_bias", True))
    )


def _table(first: str, second: str) -> KeyTable:
    names = {first: "layers.0", second: "layers.1"}
    return KeyTable.of({f"{a}.{leaf}": f"{b}.{leaf}" for a, b in names.items() for leaf in ("weight", "bias")})


HF_KEYS = _table("linear_1", "linear_2")
"""transformers' names (without the prefix `multi_modal_projector.`) -> ours."""


def parse_projector_type(kind: str) -> tuple[MLPConnectorConfig, KeyTable]:
    """The connector for an official `mm_projector_type` ("linear", "mlp2x_gelu", ...) and its names.

    The names come without the prefix `model.mm_projector`.  Raises ConfigError for other types.
    """
    match = re.fullmatch(r"linear|mlp([1-9]\d*)x_gelu", kind)
    if match is None:
        raise ConfigError(f"mm_projector_type {kind!r} is not supported; expected linear or mlp<depth>x_gelu")
    depth = int(match[1] or 1)
    # Activations are numbered too; the single layer of "linear" has no number.
    prefixes = [""] if match[1] is None else [f".{2 * index}" for index in range(depth)]
    rows = {f"{name}.{leaf}": f"layers.{i}.{leaf}" for i, name in enumerate(prefixes) for leaf in ("weight", "bias")}
    return MLPConnectorConfig(depth=depth), KeyTable.of(rows)


_IN_MEMORY = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    **{
        name: f"model.{name}"
        for name in ("vision_tower.", "multi_modal_projector.", "image_newline", "language_model.")
    },
}


def with_in_memory_names(tables: Iterable[KeyTable]) -> tuple[KeyTable, ...]:
    """Tables of whole LLaVA checkpoints, then the same for the names that transformers uses in memory."""
    tables = tuple(tables)
    return (*tables, *(table.respelled(_IN_MEMORY) for table in tables))
