"""The tokenizer that a GGUF file carries in its metadata.

    tokenizer.ggml.model "gpt2"     byte-level BPE with its merges (`Tokenizer.from_gguf`)
    tokenizer.ggml.model "llama"    sentencepiece BPE: pieces, scores, kinds; as the sentencepiece library encodes

Source: gguf-py/gguf/constants.py of llama.cpp; the numbers of its token kinds are those of sentencepiece.
Traps: like llama.cpp, a space is put in front of the text after every special token, which the LlamaTokenizer of
transformers 5 does for the first text only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from polymodal.data.sentencepiece import BYTE, SentencePieceModel, check_pieces
from polymodal.data.sentencepiece_pipelines import plain
from polymodal.data.token_settings import TokenSettings
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.tokenizer_parts import check_count, made_by_library
from polymodal.errors import WeightsError

ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}


def gguf_tokenizer(metadata: Mapping[str, Any], **names: Any) -> Tokenizer:
    """The tokenizer in a file's metadata; keywords as for `Tokenizer`.

    Raises WeightsError for a kind of vocabulary that is not read and for one that contradicts itself.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        return Tokenizer.from_gguf(metadata, **names)
    if kind != "llama":
        raise WeightsError(f"tokenizer: GGUF vocabulary is of kind {kind!r}; expected 'gpt2' or 'llama'")
    model = _pieces(metadata)
    settings = TokenSettings(options={}, roles={}, extra=None, added_by_id={})
    vocabulary = made_by_library("the GGUF vocabulary is damaged", lambda: plain(model, settings))
    vocabulary.pipeline.add_special_tokens(list(vocabulary.control))
    given = {role: model.roles.get(role) for role in ROLES}
    control = (*model.roles.values(), *names.pop("control", ()))
    return Tokenizer(vocabulary.pipeline, **{**given, **names, "control": control})


def _pieces(metadata: Mapping[str, Any]) -> SentencePieceModel:
    """The vocabulary as the model file of sentencepiece would hold it."""
    lists = {name: metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "scores", "token_type")}
    lengths = {len(each) if isinstance(each, list) else -1 for each in lists.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise WeightsError("tokenizer: GGUF lacks tokens, scores or token types, or has them in different numbers")
    pieces, scores, kinds = (list(each or ()) for each in lists.values())
    try:
        check_count(len(pieces))
        if not all(isinstance(piece, str) for piece in pieces) or not all(isinstance(kind, int) for kind in kinds):
            raise ValueError("its tokens are not texts, or their types not numbers")
        check_pieces(pieces, kinds)
        if not all(isinstance(score, float) and math.isfinite(score) for score in scores):
            raise ValueError("it has a score that is not a number")
        named = {**ROLES, "unk": "unknown"}.items()
        ids = {role: metadata.get(f"tokenizer.ggml.{own}_token_id") for role, own in named}
        if wrong := [str(each)[:40] for each in ids.values() if each is not None and each not in range(len(pieces))]:
            raise ValueError(f"it gives a role to the token {wrong[0]}")
        roles = {role: pieces[index] for role, index in ids.items() if index is not None}
    except (ValueError, TypeError, IndexError) as problem:
        raise WeightsError(f"tokenizer: the GGUF vocabulary is damaged ({problem})") from None
    return SentencePieceModel(
        pieces=tuple(pieces),
        scores=tuple(scores),
        kinds=tuple(kinds),
        algorithm="bpe",
        byte_fallback=BYTE in kinds,
        unknown=int(ids["unk"] or 0),
        roles=roles,
        charsmap=b"",
        dummy_prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        collapse_spaces=bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
        escape_spaces=True,
    )
