"""Modules are filled completely or not at all, and saved atomically."""

import copy
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from polymodal.errors import WeightsError
from polymodal.weights import export, load
from polymodal.weights.export import export_safetensors, export_tensors, save_safetensors
from polymodal.weights.keytable import KeyTable, fuse
from polymodal.weights.load import load_into, load_safetensors, open_source, shared_names
from polymodal.weights.read import read_safetensors
from polymodal.weights.source import Source


class Tiny(nn.Module):
    """Fused q, k, v; a norm with buffers; a head that shares the embedding."""

    def __init__(self, tied: bool = True, new: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.qkv = nn.Linear(4, 12)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        if new:
            self.connector = nn.Linear(2, 2)


TABLE = KeyTable.of(
    {"tok.weight": "embed.weight", "bn.{}": None, "rope.inv_freq": None},
    *(fuse([f"{letter}.{kind}" for letter in "qkv"], f"qkv.{kind}") for kind in ("weight", "bias")),
    *KeyTable.of({f"n.{x}": f"norm.{x}" for x in ("weight", "bias", "running_mean", "running_var")}).rows,
    new=("norm.num_batches_tracked", "connector.**"),
    tied={"head.weight": "embed.weight"},
)


def checkpoint() -> dict[str, torch.Tensor]:
    tensors = {"tok.weight": torch.randn(7, 4), "rope.inv_freq": torch.randn(2)}
    tensors |= {f"{letter}.weight": torch.randn(4, 4) for letter in "qkv"}
    tensors |= {f"{letter}.bias": torch.randn(4) for letter in "qkv"}
    return tensors | {f"n.{x}": torch.rand(4) for x in ("weight", "bias", "running_mean", "running_var")}


def test_a_module_is_filled():
    module, source = Tiny(new=True), checkpoint()
    before = module.connector.weight.clone()
    report = load_into(module, source, TABLE)
    assert torch.equal(module.qkv.weight, torch.cat([source[f"{letter}.weight"] for letter in "qkv"]))
    assert torch.equal(module.norm.running_var, source["n.running_var"])
    assert module.head.weight is module.embed.weight and torch.equal(module.head.weight, source["tok.weight"])
    assert torch.equal(module.connector.weight, before)
    assert set(report.new) == {"norm.num_batches_tracked", "connector.weight", "connector.bias"}
    untied = Tiny(tied=False)
    load_into(untied, source, TABLE)
    assert torch.equal(untied.head.weight, source["tok.weight"]) and untied.head.weight is not untied.embed.weight


def test_dtype():
    module = Tiny()
    load_into(module, checkpoint(), TABLE, dtype=torch.bfloat16)
    assert module.qkv.weight.dtype == torch.bfloat16 and module.norm.num_batches_tracked.dtype == torch.int64
    load_into(module, {name: x.half() for name, x in checkpoint().items()}, TABLE)
    assert module.qkv.weight.dtype == torch.bfloat16, "without dtype the module keeps its own"


@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_a_module_that_does_not_fit_is_untouched(change: str):
    module, source = Tiny(), checkpoint()
    if change == "missing":
        del source["v.bias"]
    elif change == "foreign":
        source["lora.weight"] = torch.ones(1)
    else:
        source["n.bias"] = torch.ones(5)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(WeightsError):
        load_into(module, source, TABLE, dtype=torch.float16)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == before[name].dtype for name in before)


def test_meta_modules_come_to_life_with_their_ties():
    table = KeyTable(TABLE.rows + KeyTable.of({"n.count": "norm.num_batches_tracked"}).rows, (), TABLE.tied)
    source = checkpoint() | {"n.count": torch.tensor(5)}
    with torch.device("meta"):
        module = Tiny()
    load_into(module, source, table, dtype=torch.float64)
    assert module.head.weight is module.embed.weight and not any(x.is_meta for x in module.state_dict().values())
    assert torch.equal(module.embed.weight, source["tok.weight"].double()) and module.norm.num_batches_tracked == 5
    with torch.device("meta"):
        module = Tiny(new=True)
    with pytest.raises(WeightsError, match=r"'norm.num_batches_tracked' and 2 more are new and on the meta device"):
        load_into(module, checkpoint(), TABLE)
    with torch.device("meta"):
        module = Tiny()
        module.register_buffer("angles", torch.zeros(3), persistent=False)
    with pytest.raises(WeightsError, match="buffer 'angles' is on the meta device"):
        load_into(module, source, table)


def test_a_tied_tensor_stored_twice_must_agree():
    table = KeyTable(TABLE.rows + KeyTable.of({"lm.weight": "head.weight"}).rows, TABLE.new)
    source, module = checkpoint(), Tiny()
    load_into(module, source | {"lm.weight": source["tok.weight"].clone()}, table)
    before = module.embed.weight.clone()
    with pytest.raises(WeightsError, match="are one tensor of the model"):
        load_into(module, source | {"tok.weight": torch.ones(7, 4), "lm.weight": torch.zeros(7, 4)}, table)
    assert torch.equal(module.embed.weight, before)


def test_export_gives_the_published_layout_back(tmp_path: Path):
    module, source = Tiny(new=True), checkpoint()
    load_into(module, source, TABLE)
    out = export_tensors(module, TABLE)
    assert set(source) - set(out) == {"rope.inv_freq"}
    assert all(torch.equal(out[name], source[name]) for name in out)
    path = export_safetensors(module, tmp_path / "out" / "model.safetensors", TABLE, metadata={"format": "pt"})
    again = Tiny()
    load_into(again, read_safetensors(path), TABLE)
    assert torch.equal(again.qkv.weight, module.qkv.weight)
    extra = Tiny()
    extra.register_parameter("odd", nn.Parameter(torch.ones(1)))
    with pytest.raises(WeightsError, match="'odd' has no row"):
        export_tensors(extra, TABLE)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_own_names_round_trip(tmp_path: Path, dtype: torch.dtype | None):
    module = Tiny()
    path = save_safetensors(module, tmp_path / "own.safetensors", dtype)
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
    assert len({"embed.weight", "head.weight"} & stored) == 1, "tied tensors are stored once"
    again = Tiny()
    load_safetensors(again, path)
    wanted = module.to(dtype).float() if dtype else module
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in wanted.state_dict().items())
    assert shared_names(again) == [["embed.weight", "head.weight"]]


def test_views_of_one_memory_are_stored_apart(tmp_path: Path):
    base = torch.randn(4, 6)
    views = {"rows": base[1:3], "turned": base.T, "whole": base, "flat": base.view(24), "first": base[0]}
    stored = read_safetensors(save_safetensors(views, tmp_path / "views.safetensors"))
    assert set(stored) == set(views) and all(torch.equal(stored[name], x) for name, x in views.items())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_safetensors({"w": torch.ones(2)}, tmp_path / "w.safetensors")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.os, "fsync", full)
    with pytest.raises(WeightsError, match="the disk is full"):
        save_safetensors({"w": torch.zeros(2)}, path)
    monkeypatch.undo()
    assert torch.equal(read_safetensors(path)["w"], torch.ones(2))
    assert os.listdir(tmp_path) == ["w.safetensors"]
    with pytest.raises(WeightsError, match="'w' has no values"):
        save_safetensors({"w": torch.ones(2, device="meta")}, path)


def test_sources_are_opened_in_the_format_they_name(tmp_path: Path):
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    known = {"kind": "file", "name": str(tmp_path), "file": "a.pt"}
    assert torch.equal(open_source(Source(**known, format="torch", entry="model"))["w"], torch.ones(2))
    with pytest.raises(WeightsError, match="names no format"):
        open_source(Source(**known))
    with pytest.raises(WeightsError, match="not a sound safetensors"):
        open_source(Source(**known, format="safetensors"))
    assert load.open_source(Source(**known, format="torch", entry="model"), offline=True).format == "torch"
