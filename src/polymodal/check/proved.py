"""What the last run of `polymodal check --all` saw of each system, kept in `proved.json` beside this file.

    {"clip": {"build": true, ..., "headline": true, "error": 4.8e-07, "oracle": "transformers"}, ...}

The run writes it and nothing else does; `polymodal systems` reads it.  A system that no run has seen is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from polymodal.check.columns import ORACLES, PARTS, kind_of, nothing_to_ask
from polymodal.errors import ConfigError

FILE = Path(__file__).with_name("proved.json")


@cache
def proved() -> Mapping[str, Mapping[str, Any]]:
    """What the file says: system -> column -> True, False, None where it could not be checked, or "-" where there is
    nothing to ask; with the largest error of parity and the kind of oracle."""
    return dict(json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else {}


def chosen(ids: Sequence[str], column: str = "", oracle: str = "") -> list[str]:
    """Of these systems those whose column was seen right and that were compared with such an oracle; "" asks nothing.

    Raises ConfigError for a column or an oracle that is none.
    """
    if column and column not in PARTS:
        raise ConfigError(f"{column!r} is no column of a check; there are {', '.join(PARTS)}")
    if oracle and oracle not in ORACLES:
        raise ConfigError(f"{oracle!r} is no kind of oracle; there are {', '.join(ORACLES)}")
    rows = proved()
    found = [each for each in ids if not column or rows.get(each, {}).get(column) is True]
    return [each for each in found if not oracle or rows.get(each, {}).get("oracle") == oracle]


def rows_of(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What `proved` gives, of the results of a run."""
    rows = {}
    for result in results:
        row: dict[str, Any] = {part: "-" if nothing_to_ask(result[part]) else result[part]["ok"] for part in PARTS}
        row["error"] = result["parity"].get("max_abs_error")
        row["oracle"] = kind_of(str(result["parity"].get("oracle", "")))
        rows[str(result["id"])] = row
    return rows


def document(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of the file."""
    lines = [f"{json.dumps(name)}: {json.dumps(rows[name])}" for name in sorted(rows)]
    return "{\n" + ",\n".join(lines) + "\n}\n"
