"""Tokenizers with tokens that the official code adds when it runs, which no published file holds."""

from __future__ import annotations

import json

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.tokenizer import Tokenizer


def tokenizer_of(files: CheckpointFiles, names: tuple[str, ...]) -> Tokenizer:
    """LLaMA's tokenizer with the placeholders the official code adds when it runs, behind its vocabulary."""
    table = json.loads((files.folder / "tokenizer.json").read_text(encoding="utf-8"))
    known = {token["content"] for token in table["added_tokens"]}
    first = max([*(token["id"] for token in table["added_tokens"]), *table["model"]["vocab"].values()]) + 1
    for name in names:
        if name not in known:
            table["added_tokens"].append({"id": first, "content": name, "special": True, "single_word": False,
                                          "lstrip": False, "rstrip": False, "normalized": False})  # fmt: skip
            first += 1
    settings = files.json("tokenizer_config.json")
    named = {name: settings.get(f"{name}_token") for name in ("bos", "eos", "pad")}
    text = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    return Tokenizer.from_json(json.dumps(table), where=str(files.folder / "tokenizer.json"), **text)
