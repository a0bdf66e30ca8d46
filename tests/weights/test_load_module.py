"""A module is built without memory and filled in its place, dtype and int8 form: as a fresh build filled in float32."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from polymodal.errors import WeightsError
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import Linear
from polymodal.nn.quantise import Int8Linear, is_quantised, quantise_linears
from polymodal.weights import load
from polymodal.weights.build import build_empty, first_values
from polymodal.weights.keytable import KeyTable, fuse, rename, stack
from polymodal.weights.load import load_into, load_module
from polymodal.weights.operations import Transpose
from polymodal.weights.read import read_safetensors
from polymodal.weights.tensors import LazyTensors


class Block(nn.Module):
    """Fused, stacked and turned weights."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = Linear(16, 48)
        self.experts = nn.Parameter(torch.randn(3, 4, 16))
        self.turned = Linear(16, 32, bias=False)
        self.out = Linear(32, 16)


class Model(nn.Module):
    """A tied head, computed tables, a pooler that no file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.pooler = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.tensor(math.log(10)))
        self.queries = nn.Parameter(torch.randn(2, 16) * 0.02)
        self.head = Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.pooler.weight, mean=5.0, std=0.1)
        computed_buffer(self, "angles", lambda: torch.arange(6).float() / 7, persistent=False)
        computed_buffer(self, "line", lambda: torch.linspace(0, 1, 5))


TABLE = KeyTable(
    (
        rename("tok", "embed.weight"),
        fuse([f"b.{{}}.{letter}.weight" for letter in "qkv"], "blocks.{}.qkv.weight"),
        fuse([f"b.{{}}.{letter}.bias" for letter in "qkv"], "blocks.{}.qkv.bias"),
        stack("b.{}.expert.{}", "blocks.{}.experts", 3),
        rename("b.{}.t", "blocks.{}.turned.weight", Transpose()),
        rename("b.{}.out.weight", "blocks.{}.out.weight"),
        rename("b.{}.out.bias", "blocks.{}.out.bias"),
        rename("scale", "scale"),
    ),
    ("pooler.**", "queries", "line"),
    (("head.weight", "embed.weight"),),
)


def checkpoint() -> dict[str, torch.Tensor]:
    made = {"tok": torch.randn(40, 16), "scale": torch.tensor(2.0)}
    for i in range(2):
        for letter in "qkv":
            made |= {f"b.{i}.{letter}.weight": torch.randn(16, 16), f"b.{i}.{letter}.bias": torch.randn(16)}
        made |= {f"b.{i}.expert.{j}": torch.randn(4, 16) for j in range(3)}
        made |= {f"b.{i}.t": torch.randn(16, 32), f"b.{i}.out.weight": torch.randn(16, 32)}
        made |= {f"b.{i}.out.bias": torch.randn(16)}
    return made


@pytest.fixture
def source(tmp_path: Path):
    save_file(checkpoint(), tmp_path / "model.safetensors")
    return read_safetensors(tmp_path / "model.safetensors")


def whole(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_it_is_what_a_fresh_build_filled_and_cast_is(source, dtype):
    module = load_module(Model, source, (TABLE,), dtype=dtype)
    wanted = Model()
    load_into(wanted, source, TABLE)
    wanted.to(dtype)
    found = whole(module)
    assert found.keys() == whole(wanted).keys() and not any(x.is_meta for x in found.values())
    new = {"pooler.weight", "pooler.bias", "queries"}
    for name, x in whole(wanted).items():
        assert found[name].dtype == x.dtype and found[name].shape == x.shape
        assert name in new or torch.equal(found[name], x), name
    assert module.head.weight is module.embed.weight
    assert all(isinstance(x, nn.Parameter) and x.requires_grad for x in module.parameters())
    assert (module.pooler.weight.float() - 5).abs().max() < 1 and module.queries.float().abs().max() < 0.2


def test_training_in_place_changes_the_model_alone(source):
    module = load_module(Model, source, (TABLE,))
    before = Path(source.path).read_bytes()
    torch.optim.SGD(module.parameters(), lr=1.0).zero_grad()
    loss = module.head(module.embed(torch.arange(40))).square().mean()
    loss.backward()
    with torch.no_grad():
        for p in module.parameters():
            p -= 1
    assert Path(source.path).read_bytes() == before
    again = load_module(Model, source, (TABLE,))
    assert torch.equal(again.embed.weight - 1, module.embed.weight)


def test_int8_is_the_same_made_while_loading_or_after(source):
    module = load_module(Model, source, (TABLE,), prepare=quantise_linears)
    after = Model()
    load_into(after, source, TABLE)
    assert quantise_linears(after) == 6 and is_quantised(module)
    for (name, x), y in zip(whole(after).items(), whole(module).values(), strict=True):
        assert name in {"pooler.weight", "pooler.bias", "queries"} or torch.equal(x, y), name
    assert isinstance(module.blocks[0].turned, Int8Linear) and module.blocks[0].out.scale.dtype == torch.bfloat16
    assert isinstance(module.head, Linear), "the head's weight is the embedding's"
    low = load_module(Model, source, (TABLE,), dtype=torch.bfloat16, prepare=quantise_linears)
    assert torch.equal(low.blocks[1].out.weight, module.blocks[1].out.weight), "quantised from the file's own numbers"
    assert low.blocks[1].out.bias.dtype == torch.bfloat16 and low.embed.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("change", ["missing", "foreign", "shape", "whole"])
def test_nothing_is_read_or_allocated_when_it_does_not_fit(tmp_path, change, monkeypatch):
    tensors = checkpoint()
    if change == "missing":
        del tensors["b.1.v.bias"]
    elif change == "foreign":
        tensors["lora"] = torch.ones(2)
    elif change == "shape":
        tensors["b.0.t"] = torch.ones(32, 16)
    else:
        tensors["b.0.t"] = torch.ones(16, 32, dtype=torch.int8)
    save_file(tensors, tmp_path / "m.safetensors")

    def refuse(*_: object) -> None:
        raise AssertionError("memory was taken")

    monkeypatch.setattr(load, "_materialise", refuse)
    monkeypatch.setattr(load, "_read", refuse)
    with pytest.raises(WeightsError, match=r"b\.|lora|blocks"):
        load_module(Model, read_safetensors(tmp_path / "m.safetensors"), (TABLE,))


def test_the_file_s_own_names(tmp_path):
    module = Model()
    module.blocks[0].out.weight.data.fill_(3)
    tied = {name: x for name, x in module.state_dict().items() if name != "embed.weight"}
    save_file(tied, tmp_path / "own.safetensors")
    again = load_module(Model, read_safetensors(tmp_path / "own.safetensors"), None)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in module.state_dict().items())
    assert again.embed.weight is again.head.weight


def test_tied_tensors_that_differ_far_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_COMPARED", 64)
    table = KeyTable((*TABLE.rows, rename("lm", "head.weight")), TABLE.new)
    tensors = checkpoint()
    tensors["lm"] = tensors["tok"].clone()
    save_file(tensors, tmp_path / "a.safetensors")
    load_module(Model, read_safetensors(tmp_path / "a.safetensors"), (table,))
    tensors["lm"][-1, -1] += 1
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="are one tensor of the model"):
        load_module(Model, read_safetensors(tmp_path / "a.safetensors"), (table,))


def test_an_error_of_one_reader_is_raised(source, monkeypatch):
    class Broken(dict):
        def shape(self, name):
            return source.shape(name)

        def dtype(self, name):
            return source.dtype(name)

        def read_into(self, name, out, first=0):
            if name == "b.1.out.bias":
                raise WeightsError("the disk is gone")
            source.read_into(name, out, first)

    broken = Broken(dict.fromkeys(source))
    assert isinstance(broken, LazyTensors)
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: range(4), raising=False)
    with pytest.raises(WeightsError, match="the disk is gone"):
        load_module(Model, broken, (TABLE,))


@pytest.mark.parametrize("processors", [1, 3])
def test_a_model_loaded_while_another_answers_can_be_trained(source, monkeypatch, processors):
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: range(processors), raising=False)
    with torch.inference_mode():
        module = load_module(Model, source, (TABLE,))
        filled = Model()
        load_into(filled, source, TABLE)
    assert not any(x.is_inference() for x in whole(module).values())
    module.head(module.embed(torch.tensor([1]))).sum().backward()
    assert torch.equal(filled.embed.weight, module.embed.weight)


def test_empty_builds_draw_nothing_and_first_values_only_what_is_asked():
    drawn = build_empty(Model)
    assert all(x.is_meta for x in drawn.parameters()) and drawn.head.weight is drawn.embed.weight
    assert torch.equal(drawn.angles, torch.arange(6).float() / 7) and not drawn.line.is_meta
    torch.manual_seed(0)
    found = first_values(Model, ["pooler.weight", "queries"])
    assert found["pooler.weight"].std() < 0.2 and abs(found["pooler.weight"].mean() - 5) < 0.1
    assert first_values(Model, []) == {}


def test_a_buffer_that_was_computed_on_the_meta_device_is_named():
    with torch.device("meta"):
        broken = Linear(2, 2)
        broken.register_buffer("table", torch.zeros(3), persistent=False)
    with pytest.raises(WeightsError, match=r"'table' is on the meta device.*computed_buffer"):
        load_into(broken, {"w": torch.ones(2, 2), "b": torch.ones(2)}, KeyTable.of({"w": "weight", "b": "bias"}))
