"""Outputs of frozen encoders on disk: the same losses, found again by other runs, lost with other weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import polymodal as pm
from polymodal.api import training
from polymodal.api.training import TrainOptions
from polymodal.errors import StorageError
from polymodal.train import feature_cache
from polymodal.train.feature_cache import cached_features
from stage_folders import captions
from tiny_folders import tiny

SET = ["budget.batch=4", "budget.steps=10", "budget.precision=float32", "budget.max_length=480"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = tmp_path_factory.mktemp("place")
    (whole / "model").mkdir()
    tiny("llava-1.5", whole / "model")
    captions(whole)
    return whole


def run(place: Path, out: Path, cache: Path | None, stage: str = "align", **given: Any) -> list[float]:
    model = pm.load(place / "model", dtype="float32")
    options = TrainOptions(feature_cache="" if cache is None else str(cache))
    return training.fit(model, [place / "captions.jsonl"], out=out, stage=stage, settings=SET, options=options, **given)


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the items that reach an encoder."""
    seen: list[int] = []
    plain = feature_cache.rows_of
    monkeypatch.setattr(feature_cache, "rows_of", lambda output, count: (seen.append(count), plain(output, count))[1])
    return seen


def test_losses_are_the_same_and_each_picture_is_encoded_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = run(place, tmp_path / "a", None)
    seen = encoded(monkeypatch)
    cold = run(place, tmp_path / "b", tmp_path / "cache")
    assert cold == pytest.approx(without, abs=1e-6)
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 12 and not list((tmp_path / "cache").rglob(".*"))  # two captions of each picture
    assert len(seen) < 10
    before = len(seen)
    warm = run(place, tmp_path / "c", tmp_path / "cache")
    assert warm == pytest.approx(without, abs=1e-6) and len(seen) == before


def test_a_stopped_run_goes_on_bit_for_bit(place: Path, tmp_path: Path) -> None:
    straight = run(place, tmp_path / "a", tmp_path / "one")
    calls = iter(range(100))
    first = run(place, tmp_path / "b", tmp_path / "two", stop=lambda: next(calls) >= 3)
    _, second = training.resume(tmp_path / "b")
    assert 0 < len(first) < 10 and first + second == straight


def test_other_weights_find_nothing_and_what_learns_is_not_kept(place: Path, tmp_path: Path) -> None:
    model = pm.load(place / "model", dtype="float32").module
    batch = {"pixel_values": torch.randn(2, 3, 56, 56)}
    model.requires_grad_(False)
    with torch.no_grad(), cached_features(model, tmp_path):
        first = model.features(**batch)["image"]
    assert len(list(tmp_path.iterdir())) == 1
    with torch.no_grad(), cached_features(model, tmp_path):
        assert torch.equal(model.features(**batch)["image"], first)
        next(model.encoders.parameters()).add_(0.5)
    with torch.no_grad(), cached_features(model, tmp_path):
        assert not torch.allclose(model.features(**batch)["image"], first)
    assert len(list(tmp_path.iterdir())) == 2
    assert "forward" not in vars(model.encoders["image"])
    model.requires_grad_(True)
    with cached_features(model, tmp_path / "none"):
        model.features(**batch)
    assert not (tmp_path / "none").exists()


def test_a_damaged_row_is_computed_again_and_a_full_disk_is_told(place: Path, tmp_path: Path) -> None:
    model = pm.load(place / "model", dtype="float32").module.requires_grad_(False)
    batch = {"pixel_values": torch.randn(2, 3, 56, 56)}
    with torch.no_grad(), cached_features(model, tmp_path / "cache"):
        first = model.features(**batch)["image"]
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    with torch.no_grad(), cached_features(model, tmp_path / "cache"):
        assert torch.equal(model.features(**batch)["image"], first)
    (tmp_path / "file").write_text("no folder")
    with torch.no_grad(), cached_features(model, tmp_path / "file"), pytest.raises(StorageError, match="cannot write"):
        model.features(**batch)


class Pairs(nn.Module):
    """An encoder whose inputs are not one row an item, or whose outputs are several."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor, grid: torch.Tensor | None = None, twice: bool = False) -> Any:
        y = x * self.weight
        return (y, 2 * y) if twice else [row[:1] for row in y] if grid is not None else y


@pytest.mark.parametrize(
    ("given", "rows"),
    [({}, 2), ({"twice": True}, 2), ({"grid": torch.ones(2, 3)}, 2), ({"grid": torch.ones(5, 3)}, 0)],
)
def test_outputs_of_several_kinds_come_back_as_they_were(tmp_path: Path, given: dict[str, Any], rows: int) -> None:
    model = nn.Module()
    model.encoders = nn.ModuleDict({"image": Pairs()})
    x = torch.randn(2, 3)
    wanted = model.encoders["image"](x, **given)
    for _ in range(2):
        with cached_features(model, tmp_path):
            found = model.encoders["image"](x, **given)
        assert type(found) is type(wanted)
        for left, right in zip(found, wanted, strict=True):
            assert torch.equal(left, right)
    assert len(list(tmp_path.rglob("*.safetensors"))) == rows


def test_of_a_batch_only_what_is_missing_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Module()
    model.encoders = nn.ModuleDict({"image": Pairs()})
    x = torch.randn(5, 3)
    seen = encoded(monkeypatch)
    with cached_features(model, tmp_path):
        model.encoders["image"](x[:2])
        assert torch.equal(model.encoders["image"](x, twice=False), x) and seen == [
            2,
            5,
        ]  # keyed with what is no tensor
        assert torch.equal(model.encoders["image"](x[[4, 0]]), x[[4, 0]]) and seen == [2, 5, 1]


def test_rows_of_another_precision_are_not_found(tmp_path: Path) -> None:
    model = nn.Module()
    model.encoders = nn.ModuleDict({"image": Pairs()})
    for enabled in (False, True):
        with cached_features(model, tmp_path), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            model.encoders["image"](torch.ones(2, 3))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
