"""What the pickle of a `torch.save` file may name, and what is made of it here: plain values, and views for tensors.

Names that torch itself takes for safe and that are not needed (devices, sparse and quantised tensors, classes that the
user declared safe) become Opaque; every other name is refused before it is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from polymodal.weights.pickled import Call, Forbidden, Opaque
from polymodal.weights.stored_views import STORAGES, Storage, View, stored, view

_OLD = {"__builtin__": "builtins", "torch.tensor": "torch._tensor"}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_TENSOR_MODULES = ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
_OPAQUE = frozenset({
    "torch.device", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch.storage.TypedStorage", "builtins.complex", "torch.per_tensor_affine", "torch.per_tensor_symmetric",
    "torch.per_channel_affine", "torch.per_channel_symmetric", "torch.per_channel_affine_float_qparams",
    "argparse.Namespace", "fairseq.data.dictionary.Dictionary",  # what fairseq keeps beside the weights
})  # fmt: skip
_PLAIN = (str, int, float, bool, type(None))
Charge = Callable[[int], None]


class TorchNames:
    """The names of one file.  storages: what its tensors need, by key, to be found in the file afterwards."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._safe: set[str] | None = None

    def find(self, module: str, name: str) -> Any:
        module = _OLD.get(module, module)
        whole = f"{module}.{name}"
        if whole in _CALLS:
            return _CALLS[whole]
        if module in _STORAGE_MODULES and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        tensor_class = module in _TENSOR_MODULES and name.endswith("Tensor")
        rebuilt = module == "torch._utils" and name.startswith("_rebuild_")
        if whole in _OPAQUE or tensor_class or rebuilt or whole in self._declared_safe():
            return Opaque(whole, tensor_class or rebuilt)
        raise Forbidden(whole)

    def storage(self, pid: Any) -> Storage:
        found = stored(pid)
        whole = Storage(found.key, found.dtype, pid[4] * found.dtype.itemsize)
        if self.storages.setdefault(found.key, whole) != whole:
            raise ValueError(f"storage {found.key!r} has two sizes or types")
        return found

    def _declared_safe(self) -> set[str]:
        """Names of classes that the user told torch to be safe (`torch.serialization.add_safe_globals`)."""
        if self._safe is None:
            declared = torch.serialization.get_safe_globals()
            self._safe = {each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}"
                          for each in declared}  # fmt: skip
        return self._safe


def _tensor(values: tuple[Any, ...], charge: Charge) -> Any:
    """_rebuild_tensor(storage, offset, size, stride) and _rebuild_tensor_v2(..., requires_grad, hooks, metadata)."""
    made = view(*values[:4])
    return Opaque("a conjugated or negated tensor", tensor=True) if len(values) > 6 and values[6] else made


def _tensor_of(values: tuple[Any, ...], charge: Charge) -> Any:
    """_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)."""
    storage, offset, shape, stride, _, _, dtype = values[:7]
    if not isinstance(dtype, torch.dtype):
        raise ValueError("a tensor has no type")
    made = view(storage, offset, shape, stride, dtype)
    return Opaque("a conjugated or negated tensor", tensor=True) if len(values) > 7 and values[7] else made


def _same(values: tuple[Any, ...], charge: Charge) -> Any:
    return values[0] if values else ()


def _parameter(values: tuple[Any, ...], charge: Charge) -> Any:
    """_rebuild_parameter(data, requires_grad, hooks)."""
    return values[0] if isinstance(values[0], View) else Opaque("a parameter that is no plain tensor", tensor=True)


def _with_attributes(values: tuple[Any, ...], charge: Charge) -> Any:
    """_rebuild_from_type_v2(function, class, arguments, attributes): the tensor without its attributes."""
    what, _, arguments = values[:3]
    if type(what) is Call and type(arguments) is tuple and isinstance(made := what.make(arguments, charge), View):
        return made
    return Opaque("a tensor of a class of its own", tensor=True)


def _table(values: tuple[Any, ...], charge: Charge) -> Any:
    """OrderedDict() or OrderedDict([[key, value], ...]), Counter(table)."""
    given = values[0] if values else []
    charge(2)
    if type(given) is dict:
        return given
    if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in given):
        raise ValueError("a table of its pickle is made of something that is no pairs")
    _charge_keys([pair[0] for pair in given], charge)
    return dict(given)


def _set(values: tuple[Any, ...], charge: Charge) -> Any:
    given = values[0] if values else ()
    charge(30)
    _charge_keys(given, charge)
    return set(given)


def _charge_keys(keys: Any, charge: Charge) -> None:
    """Numbers cost more than texts: they can be chosen to collide in a table."""
    charge(len(keys))
    if type(keys) not in (tuple, list) or not all(type(key) in _PLAIN for key in keys):
        raise ValueError("a set or table of its pickle has an entry that is neither text nor number")
    charge(80 * sum(type(key) is not str for key in keys))


def _bytes(values: tuple[Any, ...], charge: Charge) -> Any:
    """_codecs.encode(text, 'latin1'), which is how protocol 2 writes bytes."""
    text, codec = values
    charge(len(text) // 16)
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise ValueError("bytes of its pickle are in an unusual code")
    return text.encode("latin-1")


_CALLS = {
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor_v3": Call(_tensor_of),
    "torch._utils._rebuild_parameter": Call(_parameter),
    "torch._utils._rebuild_parameter_with_state": Call(_parameter),
    "torch._tensor._rebuild_from_type_v2": Call(_with_attributes),
    "torch.Size": Call(_same),
    "builtins.bytearray": Call(_same),
    "builtins.set": Call(_set),
    "collections.OrderedDict": Call(_table),
    "collections.Counter": Call(_table),
    "_codecs.encode": Call(_bytes),
}
