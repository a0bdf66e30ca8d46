"""Tensors that were cut over ranks, read as whole ones."""

import pytest
import torch

from polymodal.errors import WeightsError
from polymodal.weights.parallel_shards import ParallelShards, parallel_shards

WHOLE = {"a.weight": torch.arange(12.0).reshape(4, 3), "b.weight": torch.arange(8.0).reshape(2, 4), "c": torch.ones(3)}
AXES = {"a.weight": 0, "b.weight": 1}


def cut(rank, count):
    return {name: value if name not in AXES else value.chunk(count, AXES[name])[rank] for name, value in WHOLE.items()}


def written(folder, count, ranks=None):
    for rank in range(count) if ranks is None else ranks:
        torch.save({"model": cut(rank, count)}, folder / f"part.{rank:02d}-of-{count:02d}.pth")
    return parallel_shards(folder, "part.*.pth", ("model",), AXES.get)


@pytest.mark.parametrize("count", [1, 2])
def test_shards_are_read_as_one(tmp_path, count):
    found = written(tmp_path, count)
    assert set(found) == set(WHOLE) and "c" in found and len(found) == 3
    for name, value in WHOLE.items():
        assert torch.equal(found[name], value) and found.shape(name) == value.shape
        assert found.dtype(name) == torch.float32
        out = torch.empty(value.shape)
        found.read_into(name, out)
        assert torch.equal(out, value)


def test_other_folders_are_read_as_they_are(tmp_path):
    torch.save({"model": WHOLE}, tmp_path / "model.pth")
    assert set(parallel_shards(tmp_path, "part.*.pth", ("model",), AXES.get)) == set(WHOLE)
    assert set(parallel_shards(tmp_path / "model.pth", "part.*.pth", ("model",), AXES.get)) == set(WHOLE)


def test_what_is_missing_or_foreign_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"expected 2 shards, numbered 0 to 1; found part\.01-of-02\.pth"):
        written(tmp_path, 2, ranks=(1,))
    with pytest.raises(WeightsError, match="only one of them holds 'c'"):
        ParallelShards([cut(0, 2), {name: x for name, x in cut(1, 2).items() if name != "c"}], AXES.get)
    with pytest.raises(WeightsError, match=r"shard 1: 'a.weight' has shape \(4, 3\), in shard 0 it has \(2, 3\)"):
        ParallelShards([cut(0, 2), {**cut(1, 2), "a.weight": WHOLE["a.weight"]}], AXES.get)
