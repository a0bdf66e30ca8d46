"""The published SmolLM2-135M-Instruct, for tests that want the real one; skipped where it was never pulled."""

import os
from functools import lru_cache
from unittest.mock import patch

import pytest

from polymodal.backbones.llama import SMOLLM2_135M_GGUF
from polymodal.data.tokenizer import Tokenizer
from polymodal.weights import cache
from polymodal.weights.fetch import find
from polymodal.weights.read import TensorFile, read_gguf

USER_CACHE = os.environ.get("POLYMODAL_TEST_ASSETS") or str(cache.home())
SMOLLM2 = SMOLLM2_135M_GGUF


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
