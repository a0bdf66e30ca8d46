"""Cases of the text-only systems, whose oracle is a causal language model of transformers at test size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from polymodal.check import randomise
from polymodal.check.hugging import hugging_case, hugging_size
from polymodal.check.record import Case, Expected, Size, Tensors
from polymodal.systems._system import System

LLAMA = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
         "vocab_size": 83, "max_position_embeddings": 64}  # fmt: skip
BLOOM = {"hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 83, "pad_token_id": 3}


def inputs(config: Any) -> Tensors:
    """Three rows of unequal length padded on the left, one of them of one token."""
    words = randomise.ids("words", (26,), 4, config.vocab_size).tolist()
    rows = [words[:14], words[14:25], words[25:]]
    ids = torch.tensor([[0] * (14 - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[0] * (14 - len(r)) + [1] * len(r) for r in rows])}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding."""
    masks = given["attention_mask"].bool()
    return [(i, {"input_ids": given["input_ids"][i][mask][None]}) for i, mask in enumerate(masks)]


def case(name: str, family: str, system: str = "", rows: bool = True, steps: bool = True, **changes: Any) -> Case:
    """family: "Llama" or "Bloom".  system: whom `pm.load` is told to read the folder as.

    rows, steps: compare rows alone and cached steps too; not where the frequencies depend on the longest row.
    """
    base = LLAMA if family == "Llama" else BLOOM
    made = hugging_case(
        name,
        f"{family}ForCausalLM",
        lambda transformers: getattr(transformers, f"{family}Config")(**{**base, **changes}),
        inputs,
        generate=steps,
        alone=alone if rows else None,
    )
    return told(made, system) if system else made


def told(case: Case, system: str) -> Case:
    """The same case loaded with `pm.load(folder, system=...)`."""

    def make(folder: Path) -> Expected:
        found = case.make(folder)
        return Expected(**{**vars(found), "call": {"system": system}})

    return Case(name=case.name, make=make, file=case.file, needs=case.needs)


def respelled(case: Case, config: Mapping[str, Any]) -> Case:
    """The same case with further or other values in config.json, as older files have them."""

    def make(folder: Path) -> Expected:
        found = case.make(folder)
        place = folder / "config.json"
        settings = {**json.loads(place.read_text()), **config}
        place.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
        return found

    return Case(name=case.name, make=make, file=case.file, needs=case.needs)


def sizes(system: System) -> tuple[Size, ...]:
    """Every variant by the library on the meta device."""

    def size(name: str, config: Mapping[str, Any]) -> Size:
        family = "Bloom" if config["model_type"] == "bloom" else "Llama"
        return hugging_size(name, f"{family}ForCausalLM", lambda t: getattr(t, f"{family}Config")(**config))

    return tuple(size(each.name, each.config) for each in system.variants if each.config is not None)
