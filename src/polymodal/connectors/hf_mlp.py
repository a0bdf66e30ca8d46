"""The two-layer connector as LLaVA's checkpoints describe and name it.

    config {"projector_hidden_act", "multimodal_projector_bias"} -> MLPConnectorConfig
    library names linear_1, linear_2;  official names 0, 2 (the activation between them counts)
"""

from collections.abc import Mapping
from typing import Any

from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.weights.keytable import KeyTable


def of_config(config: Mapping[str, Any]) -> MLPConnectorConfig:
    """The connector of a LLaVA-like config, with the library's defaults for absent keys."""
    return MLPConnectorConfig(
        activation=config.get("projector_hidden_act", "gelu"), bias=bool(config.get("multimodal_projector_bias", True))
    )


def _table(first: str, second: str) -> KeyTable:
    names = {first: "layers.0", second: "layers.1"}
    return KeyTable.of({f"{a}.{leaf}": f"{b}.{leaf}" for a, b in names.items() for leaf in ("weight", "bias")})


HF_KEYS = _table("linear_1", "linear_2")
"""Names of the transformers library (without the prefix `multi_modal_projector.`) -> ours."""
OFFICIAL_KEYS = _table("0", "2")
"""Names of the official code (without the prefix `model.mm_projector.`) -> ours."""
