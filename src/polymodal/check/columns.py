"""The columns of a check, and what a result in one of them comes to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = ("build", "keys", "parity", "cache", "batch", "recipe", "headline")
ORACLES = ("transformers", "official code", "package", "composite", "paper")
# How the reason begins why a question has no object.
NOTHING = ("no case generates", "no case compares", "no recipe was published", "an agent ")


def nothing_to_ask(found: Mapping[str, Any]) -> bool:
    """Whether a column has no object in this system."""
    return found["ok"] is None and str(found.get("why", "")).startswith(NOTHING)


def kind_of(oracle: str) -> str:
    """What sort of oracle one is: the library, official code, another package, a composite, or a paper."""
    if oracle.startswith("composite") or "joined" in oracle:
        return "composite"
    if oracle.startswith("transformers"):
        return "transformers"
    if oracle.startswith("paper"):
        return "paper"
    return "package" if oracle.startswith("pip ") else "official code"
