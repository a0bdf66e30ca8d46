"""Which parameters a stage trains: prefixes, exceptions, low-rank paths, groups by rate and decay."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.linear import Linear
from polymodal.systems import Classification
from polymodal.train.optimizer import AdamW
from polymodal.train.parameters import parameter_groups, prepare, trained, trained_numbers
from polymodal.train.recipe import LayerDecay, LoRAConfig, PartRate, Stage, as_dict


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.norm = Linear(4, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.q_proj(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(3, 4))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = Linear(4, 2, bias=False)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": Net(), "out": Linear(2, 2)})


STAGE = Stage(
    name="s", data=(), objective=Classification(), train=("encoder", "out"), optimizer=AdamW(lr=0.1, weight_decay=0.5)
)


def names(groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    found = {name: (g["factor"], g["weight_decay"]) for g in groups for name in g["names"]}
    assert all(g["lr"] == pytest.approx(0.1 * g["factor"]) and len(g["params"]) == len(g["names"]) for g in groups)
    return found


def test_exceptions_below_a_prefix_stay_frozen() -> None:
    net = model()
    stage = replace(STAGE, train=("encoder",), frozen=("encoder.blocks.0", "encoder.*.norm"))
    count = prepare(net, stage)
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert free == {"encoder.positions", "encoder.head.weight"} | {
        f"encoder.blocks.{i}.q_proj.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")
    }
    assert count == sum(p.numel() for p in net.parameters() if p.requires_grad) == trained_numbers(model(), stage)[0]
    with pytest.raises(ConfigError, match=r"'encoder\.tail', which names no parameter"):
        prepare(net, replace(stage, frozen=("encoder.tail",)))


def test_low_rank_paths_are_put_in_once_and_train_beside_frozen_linears() -> None:
    net = model()
    stage = replace(STAGE, train=("out", "encoder.blocks.0"), lora={"encoder.blocks": LoRAConfig(rank=2, alpha=4)})
    expected = trained_numbers(model(), stage)[0]
    count = prepare(net, stage)
    free = {name for name, _ in trained(net, stage)}
    paths = {name for name in free if "lora" in name}
    assert len(paths) == 6 and all(name.startswith("encoder.blocks.") for name in paths)
    # The first block trains but for its linear, which the path stands in for.
    rest = {"out.weight", "out.bias", "encoder.blocks.0.norm.weight", "encoder.blocks.0.norm.bias"}
    assert free - paths == rest and count == expected
    before = [name for name, _ in net.named_parameters()]
    assert prepare(net, stage) == count and [name for name, _ in net.named_parameters()] == before
    assert set(names(parameter_groups(net, stage))) == free
    with pytest.raises(ConfigError, match="the rank of its low-rank paths is not published"):
        prepare(model(), replace(stage, lora={"encoder.blocks": LoRAConfig()}))
    with pytest.raises(ConfigError, match="below which there is no linear"):
        prepare(model(), replace(stage, lora={"encoder.positions": LoRAConfig(rank=1, alpha=1)}))


def test_vectors_and_what_is_named_have_no_weight_decay() -> None:
    stage = replace(STAGE, optimizer=replace(STAGE.optimizer, undecayed=("encoder.positions", "out")))
    found = names(parameter_groups(model(), stage))
    assert {name for name, (_, decay) in found.items() if decay} == {
        "encoder.head.weight", *(f"encoder.blocks.{i}.q_proj.weight" for i in range(3))
    }  # fmt: skip


def test_rates_by_part_and_by_layer() -> None:
    stage = replace(STAGE, rates=(PartRate(prefix="out", factor=10.0), LayerDecay(prefix="encoder", decay=0.5)))
    factors = {name: factor for name, (factor, _) in names(parameter_groups(model(), stage)).items()}
    assert factors["out.weight"] == 10 and factors["encoder.head.weight"] == 1
    assert [factors[f"encoder.blocks.{i}.norm.bias"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert factors["encoder.positions"] == 0.0625


def test_the_objectives_own_parameters_learn_too() -> None:
    own = nn.Parameter(torch.zeros(2, 2))
    groups = parameter_groups(model(), STAGE, [own])
    assert names(groups)["objective.0"] == (1.0, 0.5) and any(own is p for g in groups for p in g["params"])
    with pytest.raises(ConfigError, match="no published learning rate"):
        parameter_groups(model(), replace(STAGE, optimizer=AdamW()))


def test_a_stage_is_plain_data() -> None:
    stage = replace(STAGE, lora={"encoder": LoRAConfig(rank=2, alpha=4)}, rates=(PartRate(prefix="out", factor=2.0),))
    found = as_dict(stage)
    assert found["type"] == "Stage" and found["objective"] == {"type": "Classification"}
    assert found["lora"] == {"encoder": {"type": "LoRAConfig", "rank": 2, "alpha": 4, "dropout": 0.0, "dora": False}}
    assert found["rates"] == [{"type": "PartRate", "prefix": "out", "factor": 2.0}] and found["schedule"] is None
