"""Tensors of a TorchScript archive (`torch.jit.save`; OpenAI's CLIP files), read without running or compiling its code.

    archive/data.pkl   a pickle of the module tree -> names of tensors, each a view (offset, size, stride) of a storage
    archive/data/<n>   storages, little-endian
    archive/code/*     never opened

The pickle may name nothing but modules, which become empty shells here, and what makes a tensor or a list of values;
any other name is refused before it is looked up.
Traps: attributes that hold a tensor look the same as parameters, so both are given.  A module that stands in two places
gives its tensors twice; only parts that hold a tensor are walked, or sharing could make the walk endless.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from polymodal.weights.limits import WeightsLimits, over
from polymodal.weights.pickled import Call, Forbidden, Measure, Module, Pickle, written_out
from polymodal.weights.stored_views import STORAGES, Storage, View, stored, view

MAX_DEPTH = 64
LISTS = frozenset({"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"})
_NAMED = 1 << 24  # characters of all names together


class ScriptNames:
    """What the pickle of a module tree may name."""

    def find(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Call(lambda values, charge: view(*values[:4]))
        if (module, name) == ("collections", "OrderedDict"):
            return Call(lambda values, charge: {})
        if module == "torch.jit._pickle" and (name in LISTS or name == "restore_type_tag"):
            return Call(lambda values, charge: values[0])
        if module == "__torch__" or module.startswith("__torch__."):
            return Call(lambda values, charge: Module())
        raise Forbidden(f"{module}.{name}")

    def storage(self, pid: Any) -> Storage:
        return stored(pid)


def script_views(data: bytes, limits: WeightsLimits) -> dict[str, View]:
    """Name -> view of every tensor in the tree.  Raises Forbidden, and ValueError and others for damage."""
    if sys.byteorder != "little":
        raise ValueError("TorchScript archives are read on little-endian machines only")
    root = Pickle(data, 0, ScriptNames(), limits).load()
    sizes = written_out(root, limits, View)
    if id(root) in sizes and sizes[id(root)].found > limits.tensors:
        raise over("tensors", "its module tree has more tensors", limits.tensors)
    named, found = 0, {}
    for name, each in _walk(root, "", 0, sizes):
        named += len(name)
        if named > _NAMED:
            raise ValueError(f"the names of its tensors have more than {_NAMED:,} characters")
        found[name] = each
    return found


def _walk(value: Any, name: str, depth: int, sizes: Mapping[int, Measure]) -> Iterator[tuple[str, View]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"its module tree is deeper than {MAX_DEPTH}")
    if isinstance(value, View):
        yield name, value
    elif type(value) is Module and isinstance(value.state, dict) and sizes[id(value)].found:
        for key, each in value.state.items():
            if isinstance(each, View) or type(each) is Module:
                yield from _walk(each, f"{name}.{key}" if name else str(key), depth + 1, sizes)
