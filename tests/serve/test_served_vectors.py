"""Embeddings of texts, pictures and sound over HTTP: those of the model itself, for many clients at once."""

import base64
import io
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, call, running

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def sound() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((np.sin(np.arange(4000) / 5) * 20_000).astype("<i2").tobytes())
    return out.getvalue()


PARTS = {
    "text": ("a cat", lambda: pm.text("a cat")),
    "picture": (
        {
            "type": "image_url",
            "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(CAT.read_bytes()).decode()},
        },
        lambda: pm.image(CAT),
    ),
    "sound": (
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound()).decode(), "format": "wav"}},
        lambda: pm.audio(sound()),
    ),
}


@pytest.fixture(scope="module")
def hearing():
    model = pm.load(TINY)
    served = ServedModel("tiny", model, SETTINGS)
    with running(create_app({"tiny": served}, SETTINGS)) as address:
        yield address, model, served


def test_text_pictures_and_sound_of_many_clients(hearing) -> None:
    address, model, _ = hearing
    wanted = {name: model.embed([make()])[0] for name, (_, make) in PARTS.items()}

    def ask(name: str) -> torch.Tensor:
        status, found = call(address, "/v1/embeddings", {"model": "tiny", "input": [PARTS[name][0], "b"]})
        assert status == 200 and len(found["data"]) == 2, found
        return torch.tensor(found["data"][0]["embedding"])

    names = [*PARTS] * 4
    with ThreadPoolExecutor(6) as pool:
        for name, row in zip(names, pool.map(ask, names), strict=True):
            torch.testing.assert_close(row, wanted[name], atol=1e-5, rtol=0)
            assert float(row.norm()) == pytest.approx(1, abs=1e-4)


def test_a_wrong_number_of_dimensions_costs_one_item_at_most(hearing, monkeypatch) -> None:
    address, model, served = hearing
    asked: list[int] = []
    monkeypatch.setattr(
        served._vectors, "_embed", lambda items: asked.append(len(items)) or pm.Model.embed(model, items)
    )
    body = {"model": "tiny", "input": ["some words"] * 20}
    for known in (False, True):
        asked.clear()
        if not known:
            monkeypatch.setattr(served, "_dimensions", None)
        status, found = call(address, "/v1/embeddings", {**body, "dimensions": 3})
        assert status == 400 and "dimensions" in found["error"]["message"]
        assert asked == ([] if known else [1])
    size = served._dimensions
    assert call(address, "/v1/embeddings", {**body, "dimensions": size})[0] == 200 and asked == [20]
