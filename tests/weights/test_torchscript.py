"""TorchScript archives: their tensors are read, their code and whatever else they name is not."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import polymodal as pm
from polymodal.check import fixture, randomise
from polymodal.errors import WeightsError
from polymodal.weights.read import read_torch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 2))
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.small = nn.Parameter(torch.randn(2, 3).half())
        self.register_buffer("count", torch.tensor([7, 8]))
        self.turned = nn.Parameter(torch.randn(3, 5).t())
        self.sizes = [1, 2, 3]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Net]:
    net = Net()
    torch.jit.save(torch.jit.script(net), str(tmp_path / "net.pt"))
    return tmp_path / "net.pt", net


def tree(state: dict[str, torch.Tensor]) -> nn.Module:
    """Modules whose state dict this is."""
    root = nn.Module()
    for name, value in state.items():
        *path, leaf = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
    return root


@pytest.mark.parametrize("kind", ["clip_vit", "clip_rn"])
def test_a_clip_archive_gives_the_logits_of_the_official_code(kind: str, tmp_path: Path) -> None:
    about, _ = fixture.read(kind)
    expected = fixture.fixture_case("", kind).make(tmp_path)
    state = randomise.state(json.loads(about["shapes"]))
    floats = {name: x for name, x in state.items() if x.is_floating_point()}
    root = tree(floats)
    for name in set(state) - set(floats):
        *path, leaf = name.split(".")
        root.get_submodule(".".join(path)).register_buffer(leaf, state[name])
    root.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.save(torch.jit.script(root), str(tmp_path / "ViT.pt"))
    found = pm.load(tmp_path / "ViT.pt").logits(**expected.inputs)
    torch.testing.assert_close(found, expected.logits, atol=1e-4, rtol=0)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with its members changed."""
    target = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return target


def with_pickle(path: Path, data: bytes) -> Path:
    return rewritten(path, lambda name, old: data if name == "data.pkl" else old)


def test_tensors_are_those_of_the_state_dict(saved: tuple[Path, Net]) -> None:
    path, net = saved
    found, expected = read_torch(path), net.state_dict()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
        assert found.shape(name) == tuple(value.shape)


class Runs:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_code_is_refused(saved: tuple[Path, Net], protocol: int) -> None:
    with pytest.raises(WeightsError, match="exec"):
        read_torch(with_pickle(saved[0], pickle.dumps(Runs(), protocol=protocol)))


OTHERS = ("os system", "builtins eval", "torch load", "torch.storage _load_from_bytes", "polymodal.weights.read read",
          "torch._utils _rebuild_parameter_with_state")  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_refused(saved: tuple[Path, Net], name: str) -> None:
    module, _, attribute = name.partition(" ")
    with pytest.raises(WeightsError, match="refused"):
        read_torch(with_pickle(saved[0], f"c{module}\n{attribute}\n.".encode()))


def tensor(offset: int = 0, shape: str = "K\x01\x85", stride: str = "K\x01\x85", count: int = 12) -> bytes:
    """A pickle of a module with one tensor, written instruction by instruction."""
    made = "\x80\x02c__torch__\nNet\n)\x81}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
    made += f"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK{chr(count)}tQ"
    made += f"K{chr(offset)}{shape}{stride}\x89c" + "collections\nOrderedDict\n)RtRsb."
    return made.encode("latin-1")


def test_a_hand_made_tree_is_read_and_lies_are_refused(saved: tuple[Path, Net]) -> None:
    path = saved[0]
    with zipfile.ZipFile(path) as archive:
        count = archive.getinfo("net/data/0").file_size // 4
    assert list(read_torch(with_pickle(path, tensor(count=count)))) == ["w"]
    lies = {
        "claims": tensor(count=count + 1),
        "reaches": tensor(count=count, offset=count),
        "repeats": tensor(count=count, shape="J\x00\x00\x00\x10\x85", stride="K\x00\x85"),
        "negative": tensor(count=count, shape="J\xff\xff\xff\xff\x85"),
        "do not agree": tensor(count=count, stride=")"),
    }
    for why, data in lies.items():
        with pytest.raises(WeightsError, match=why):
            read_torch(with_pickle(path, data))
    few = read_torch(with_pickle(path, tensor(count=count, shape="K\x7f\x85", stride="K\x00\x85")))["w"]
    assert few.shape == (127,) and few.is_contiguous() and torch.equal(few, few[:1].expand(127))


def test_a_compressed_archive_is_read(saved: tuple[Path, Net]) -> None:
    found, net = read_torch(rewritten(saved[0], lambda name, data: data, zipfile.ZIP_DEFLATED)), saved[1]
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())


def test_a_tree_inside_itself_and_changes_to_what_is_named_are_refused(saved: tuple[Path, Net]) -> None:
    loop = b"\x80\x02c__torch__\nNet\n)\x81q\x01}X\x01\x00\x00\x00ah\x01sb."
    with pytest.raises(WeightsError, match="deeper"):
        read_torch(with_pickle(saved[0], loop))
    change = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x09\x00\x00\x00_functionNs\x86b."
    with zipfile.ZipFile(saved[0]) as archive:
        made = tensor(count=archive.getinfo("net/data/0").file_size // 4)
    larger = b"}X\x05\x00\x00\x00shapeK\x7f\x85sb"  # a BUILD on the finished tensor, as a table and as slots
    slots = b"N" + larger[:-1] + b"\x86b"
    for data in (change, made.replace(b"Rsb.", b"R" + larger + b"sb."), made.replace(b"Rsb.", b"R" + slots + b"sb.")):
        with pytest.raises(WeightsError):
            read_torch(with_pickle(saved[0], data))


def test_damage_is_a_weights_error(saved: tuple[Path, Net]) -> None:
    with zipfile.ZipFile(saved[0]) as archive:
        whole = archive.read("net/data.pkl")
    for cut in range(0, len(whole), 37):
        for data in (whole[:cut], whole[:cut] + b"\xff" + whole[cut + 1 :]):
            try:
                found = read_torch(with_pickle(saved[0], data))
                for name in found:
                    found[name]
            except WeightsError:
                pass
