"""Published files in the user's own cache: their hashes, and readers against independent readers.

They run where `polymodal pull` has brought the files, and are skipped elsewhere.
"""

import os
from pathlib import Path

import pytest
import torch

from polymodal.backbones.llama import SMOLLM2_135M_GGUF as SMOLLM2
from polymodal.encoders.efficientnet import LITE0_SOURCE as EFFICIENTNET
from polymodal.models.speech_seq2seq import TINY_EN_WEIGHTS as WHISPER
from polymodal.systems.mini.sentence_space import MINILM
from polymodal.weights import cache
from polymodal.weights.fetch import find
from polymodal.weights.load import open_source
from polymodal.weights.source import Source
from polymodal.weights.verified import verify_files

USER_CACHE = os.environ.get("POLYMODAL_TEST_ASSETS") or str(cache.home())


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, own_cache: Path):
    """Skip unless the file is there, else give its path; nothing is fetched."""
    monkeypatch.setenv("POLYMODAL_HOME", USER_CACHE)

    def ask(source: Source) -> Path:
        path = find(source)
        if path is None:
            pytest.skip(f"{source} is not in {USER_CACHE}")
        return path

    return ask


@pytest.mark.assets
@pytest.mark.parametrize("source", [SMOLLM2, EFFICIENTNET, WHISPER, MINILM], ids=lambda source: source.name)
def test_hashes(cached, source: Source):
    cached(source)
    assert not verify_files([cache.cache_path(source)]).changed


@pytest.mark.assets
def test_gguf_equals_the_library(cached):
    import gguf
    from gguf.quants import dequantize

    path = cached(SMOLLM2)
    opened = open_source(SMOLLM2, offline=True)
    reference = gguf.GGUFReader(path).tensors
    assert len(opened) == len(reference) == 272
    for item in reference:
        wanted = torch.from_numpy(dequantize(item.data, item.tensor_type).copy())
        assert torch.equal(opened[item.name], wanted.reshape(tuple(reversed(item.shape.tolist()))).float()), item.name
    assert len(opened.metadata["tokenizer.ggml.tokens"]) == 49152


@pytest.mark.assets
@pytest.mark.parametrize(("source", "tensors"), [(EFFICIENTNET, 296), (WHISPER, 167), (MINILM, 104)])
def test_tensor_counts(cached, source: Source, tensors: int):
    cached(source)
    opened = open_source(source, offline=True)
    assert len(opened) == tensors
    if source is WHISPER:
        assert opened.metadata["dims"]["n_audio_state"] == 384
