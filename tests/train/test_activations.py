"""Activation checkpointing gives the same gradients and weights, keeps less, and leaves the model as it was."""

from dataclasses import replace

import pytest
import torch

from polymodal.backbones.llama import CONFIGS
from polymodal.errors import ConfigError
from polymodal.train.activations import checkpointed


def small() -> torch.nn.Module:
    base = CONFIGS["smollm2-135m"]
    block = base.blocks[0]
    attention = replace(block.attention, width=64, heads=4, kv_heads=2, head_dim=16)
    block = replace(block, attention=attention, mlp=replace(block.mlp, width=64, ffn_width=96))
    torch.manual_seed(0)
    return replace(base, vocab_size=90, width=64, blocks=(block,) * 4, rope=replace(base.rope, head_dim=16)).build()


def kept_and_gradients(every: int, held: torch.nn.Module) -> tuple[int, list[torch.Tensor]]:
    """Bytes that the forward pass keeps for the backward one, and the gradients."""
    ids, kept = torch.arange(60).view(2, 30), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    held.zero_grad()
    with (
        checkpointed(torch.nn.ModuleDict({"backbone": held}), every),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        hidden = held(held.embed(ids), torch.arange(30)[None])
        size = sum(kept.values())
        torch.nn.functional.dropout(hidden, 0.5).square().mean().backward()
    return size, [parameter.grad.clone() for parameter in held.parameters()]


def test_gradients_are_the_same_and_less_is_kept() -> None:
    model = small()
    found = {}
    for every in (0, 1, 2):
        torch.manual_seed(3)
        found[every] = kept_and_gradients(every, model)
    for every in (1, 2):
        assert all(map(torch.equal, found[0][1], found[every][1]))
    assert found[1][0] < found[2][0] < found[0][0]
    assert all("forward" not in vars(block) for block in model.blocks)


def test_dropout_inside_of_a_block_is_drawn_again() -> None:
    class Block(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(super().forward(x), 0.5)

    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList(Block(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(1)
    model, found = torch.nn.ModuleDict({"backbone": Part()}), []
    for every in (0, 1):
        torch.manual_seed(2)
        model.zero_grad()
        with checkpointed(model, every) as count:
            model["backbone"](torch.ones(4, 8)).square().sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert count == 3 and all(map(torch.equal, *found))


def test_the_model_is_as_before_after_an_error() -> None:
    model = small()
    with pytest.raises(RuntimeError, match="stop"), checkpointed(torch.nn.ModuleDict({"backbone": model}), 1):
        assert all("forward" in vars(block) for block in model.blocks)
        raise RuntimeError("stop")
    assert all("forward" not in vars(block) for block in model.blocks)
    with pytest.raises(ConfigError, match=r"0 .none. or more, found -1"), checkpointed(model, -1):
        pass
