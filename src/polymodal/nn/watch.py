"""Whether a module's weights are still those that something was computed from.

    watch = WeightsWatch(model);  ... ;  if watch.changed(): drop what was computed

Seen are changes in place (an optimiser's step, `load_state_dict`, `copy_`), parameters and buffers that were replaced,
added or removed (adapters, quantising), and moves to another device or dtype.
Trap: what is written through `parameter.data` is hidden from autograd's counter and so from here; whoever does that
drops the results himself.
"""

import weakref

from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)
# A weak reference tells a new tensor from an old one even where it got the old one's address.
_Mark = tuple["weakref.ref[Tensor]", int, int]


class WeightsWatch:
    """Remembers the state of `module`'s parameters and buffers at the last look."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._marks = self._look()

    def changed(self) -> bool:
        """Whether anything changed since the last call (or since the watch was made)."""
        marks = self._look()
        same = len(marks) == len(self._marks) and all(map(_equal, marks, self._marks))
        self._marks = marks
        return not same

    def _look(self) -> list[_Mark]:
        return [_mark(tensor) for group in (self._module.parameters(), self._module.buffers()) for tensor in group]


def _mark(tensor: Tensor) -> _Mark:
    # Tensors made in inference mode have no counter, sharded ones no address of their own.
    version = -1 if tensor.is_inference() else tensor._version
    address = tensor.data_ptr() if type(tensor) in _PLAIN and tensor.device.type != "meta" else 0
    return weakref.ref(tensor), version, address


def _equal(one: _Mark, other: _Mark) -> bool:
    return one[0]() is other[0]() is not None and one[1:] == other[1:]
