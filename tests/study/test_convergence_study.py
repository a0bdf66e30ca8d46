"""The convergence study: from files of features and from models, its level of chance, its refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.errors import ConfigError, PolymodalError
from polymodal.study.convergence import document


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3, 8)).astype(np.float32)
    y = np.concatenate((x[:, :1] @ np.linalg.qr(generator.normal(size=(8, 8)))[0], x[:, 1:] ** 2), 1)
    np.savez(tmp_path / "vision.npz", feats=x)
    torch.save({"feats": torch.from_numpy(y.astype(np.float32))}, tmp_path / "language.pt")
    np.savez(tmp_path / "noise.npz", layer_0=generator.normal(size=(60, 5)), layer_1=generator.normal(size=(60, 7)))
    return tuple(str(tmp_path / name) for name in ("vision.npz", "language.pt", "noise.npz"))  # type: ignore[return-value]


def test_files_of_features(files: tuple[str, str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = pm.study_convergence(pm.ConvergenceOptions(out=out, models=files, shuffles=5))
    assert json.loads((out / "convergence.json").read_text()) == found
    first = found["pairs"][0]
    assert first["models"] == list(files[:2]) and first["layers"] == [0, 0] and first["of_layers"] == [3, 3]
    assert first["alignment"] > 0.8 > 0.4 > first["shuffled_most"]  # a turned space has the same neighbours
    assert all(each["alignment"] < 1.3 * each["shuffled_most"] for each in found["pairs"][1:])
    page = (out / "convergence.html").read_text()
    assert page == document(found) and "shuffled pairs" in page


def test_the_same_number_as_the_system(files: tuple[str, str, str], tmp_path: Path) -> None:
    found = pm.study_convergence(pm.ConvergenceOptions(out=tmp_path / "out", models=files[:2], shuffles=0))
    x, y = torch.from_numpy(np.load(files[0])["feats"]), torch.load(files[1], weights_only=True)["feats"]
    said = pm.load("platonic").predict(x_feats=x, y_feats=y)
    assert found["pairs"][0]["alignment"] == pytest.approx(float(said["alignment"]), abs=1e-6)
    assert found["pairs"][0]["layers"] == said["layers"].tolist() and found["pairs"][0]["shuffled_mean"] is None


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("vision.npz",), "compares two models or more; found "),
        (("vision.npz", "flat.npz"), r"expected 'feats' \[samples, layers, width\]"),
        (("vision.npz", "short.npz"), "found 60 and 40 rows; give both the same samples"),
        (("vision.npz", "nothing-like-it"), "nothing-like-it"),
    ],
)
def test_what_cannot_be_compared(files: tuple[str, str, str], tmp_path: Path, models: tuple, message: str) -> None:
    np.savez(tmp_path / "flat.npz", feats=np.zeros(60, np.float32))
    np.savez(tmp_path / "short.npz", feats=np.load(files[0])["feats"][:40])
    paths = tuple(str(tmp_path / each) if each.endswith("npz") else each for each in models)
    with pytest.raises(PolymodalError, match=message):
        pm.study_convergence(pm.ConvergenceOptions(out=tmp_path / "out", models=paths, limit=20))


def test_a_pair_that_lacks_what_a_model_takes(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "no picture"}) + "\n")
    options = pm.ConvergenceOptions(
        out=tmp_path / "out", models=("efficientnet-lite0:untrained", "centernet:untrained"),
        data=tmp_path / "data.jsonl",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="efficientnet-lite0:untrained takes image, and pair 1 of the data has none"):
        pm.study_convergence(options)
