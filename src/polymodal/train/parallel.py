"""Models over several processes, with PyTorch's own fully sharded data parallel (`fully_shard`, arXiv 2304.11277).

    shard(model, mesh)  ->  every block, every part (encoders.*, connectors.*, backbone) and the model are one unit each
    model(**batch).loss.backward()  ->  parameters are gathered unit by unit, gradients are averaged over the processes

Every process must run the same units in the same order.  A batch without pictures would skip their encoder: give
`collate` the blank items of `data/dummy_items.py`, which pass the encoder and count nothing.  Routed branches and
experts that no token of a process takes are run on an empty tensor.
Traps: parts stay gathered between forward and backward (only blocks are freed), since models call their methods one
after the other; a parameter that two units share keeps both in the unit around them; scalars cannot be sharded, so no
parameter has less than one dimension.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def shard(model: nn.Module, mesh: Any = None, **options: Any) -> nn.Module:
    """Shard a model in place over a one-dimensional `DeviceMesh` (None: all processes); returns it.

    options: of `fully_shard`, such as mp_policy.  Public methods of the model and of its parts gather the parameters
    they use, as a forward does, in any order: generation works on a sharded model, too.  There every process must write
    as many tokens (no end ids), or those that end first leave the others waiting.
    """
    from torch.distributed.fsdp import fully_shard

    options, units = {"mesh": mesh, **options}, []
    for part in parts(model):
        for block in own_blocks(part):
            units.append(fully_shard(block, **options))
    for unit in (*parts(model), model):
        units.append(fully_shard(unit, reshard_after_forward=False, **options))
        gather_in_methods(unit)
    _initialise(model, units)
    return model


def _initialise(root: nn.Module, units: Sequence[FSDPModule]) -> None:
    """Make `root` the root whichever unit is called first, and give all units their buffers now.

    Buffers that were first made in inference mode, by generation, could never be used in training.
    """
    from torch.distributed.fsdp import register_fsdp_forward_method

    name = "begin_sharding"
    setattr(root, name, lambda: None)
    register_fsdp_forward_method(root, name)
    getattr(root, name)()
    delattr(root, name)
    for unit in units:
        unit.unshard()
        unit.reshard()
    # `reshard` leaves the units gathered that are not freed after their forward, and an optimiser made now would hold
    # parameters that never get a gradient; the state dict is always made of the parts.
    root.state_dict()


def gather_in_methods(unit: nn.Module) -> None:
    """Let the public methods of a sharded unit gather its parameters, unless they run inside one that has."""
    from torch.distributed.fsdp import register_fsdp_forward_method

    inside = [0]  # how many calls of this unit are under way

    def counted(function: Callable[..., Any], gathering: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            chosen = function if inside[0] else gathering
            inside[0] += 1
            try:
                return chosen(*args, **kwargs)
            finally:
                inside[0] -= 1

        return call

    for name in public_methods(unit):
        plain = getattr(unit, name)
        register_fsdp_forward_method(unit, name)
        setattr(unit, name, counted(plain, getattr(unit, name)))
    # The hooks of fully_shard run around `forward` already.
    setattr(unit, "forward", counted(unit.forward, unit.forward))  # noqa: B010


def parts(model: nn.Module) -> list[nn.Module]:
    """The children of a model that have parameters of their own; tables of children (`encoders`) count one by one."""
    found: list[nn.Module] = []
    for child in model.children():
        inner = list(child.children()) if type(child) in (nn.ModuleDict, nn.ModuleList) else [child]
        found += [part for part in inner if any(True for _ in part.parameters())]
    return [part for part in found if not _shared(part, [other for other in found if other is not part])]


def own_blocks(part: nn.Module) -> list[nn.Module]:
    """The repeated blocks below a part, as far as no two of them share a parameter."""
    lists = [child for child in part.modules() if isinstance(child, nn.ModuleList) and len(child)]
    every = [block for each in lists for block in each if any(True for _ in block.parameters())]
    blocks = [block for block in every if not isinstance(block, nn.ModuleList | nn.ModuleDict | nn.Sequential)]
    outer = [block for block in blocks if not any(block in list(other.modules())[1:] for other in blocks)]
    return [block for block in outer if not _shared(block, [other for other in outer if other is not block])]


def public_methods(module: nn.Module) -> list[str]:
    """Names of the methods that the module's own classes define for others to call, each once."""
    named = inspect.getmembers(type(module), inspect.isfunction)
    return [name for name, _ in named if not name.startswith("_") and not hasattr(nn.Module, name)]


def _shared(module: nn.Module, others: list[nn.Module]) -> bool:
    mine = {id(parameter) for parameter in module.parameters()}
    return any(id(parameter) in mine for other in others for parameter in other.parameters())
