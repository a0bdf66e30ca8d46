"""Running the command line inside the test process, with a small model and a cache folder of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import soundfile
from outcome import Outcome
from PIL import Image

TINY = str(Path(__file__).with_name("tiny_system.py"))


@pytest.fixture
def polymodal(capsys, monkeypatch, tmp_path) -> Callable[..., Outcome]:
    """Call as polymodal("ask", file, question); the cache is an empty folder of this test."""
    from polymodal.cli.app import run

    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("POLYMODAL_OFFLINE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def tiny() -> str:
    """The path of a system with random weights."""
    return TINY


@pytest.fixture
def photo(tmp_path) -> Path:
    """A small picture of no meaning."""
    path = tmp_path / "photo.jpg"
    pixels = numpy.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def sound(tmp_path) -> Path:
    """A second of noise."""
    path = tmp_path / "sound.wav"
    soundfile.write(path, numpy.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    return path
