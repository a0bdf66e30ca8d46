"""The classes a published `config.json` names.

id2label {"0": "cat", ...}  ->  ("cat", ...)       neither id2label nor num_labels: two unnamed classes
"""

from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes in the order of their ids; "LABEL_3" where a config gives only their number.

    Raises ConfigError when the ids are not 0 to n - 1.
    """
    named = config.get("id2label")
    if named is None:
        count = config.get("num_labels")
        return tuple(f"LABEL_{index}" for index in range(2 if count is None else count))
    by_id = {int(index): str(name) for index, name in named.items()}
    if sorted(by_id) != list(range(len(by_id))):
        raise ConfigError(f"id2label must name the ids 0 to {len(by_id) - 1}, found {sorted(by_id)[:5]}")
    return tuple(by_id[index] for index in range(len(by_id)))
