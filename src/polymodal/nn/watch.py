"""Detects whether the weights of a module changed, to invalidate results computed from them.

    watch = WeightsWatch(model);  ... ;  if watch.changed(): drop cached results

It detects in-place changes (an optimiser step, `load_state_dict`, `copy_`), parameters and buffers that were replaced,
added or removed (adapters, quantisation), and moves to another device or dtype.
Trap: writes through `parameter.data` do not change autograd's version counter and are not detected; the caller must
drop cached results.
"""

import weakref

from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)
# A weak reference distinguishes a new tensor from a freed one at the same address.
_Fingerprint = tuple["weakref.ref[Tensor]", int, int]


class WeightsWatch:
    """Fingerprints of the parameters and buffers of `module` at the last check."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._fingerprints = self._take()

    def changed(self) -> bool:
        """Whether anything changed since the last call (or since construction)."""
        fingerprints = self._take()
        same = len(fingerprints) == len(self._fingerprints) and all(map(_equal, fingerprints, self._fingerprints))
        self._fingerprints = fingerprints
        return not same

    def _take(self) -> list[_Fingerprint]:
        tensors = (*self._module.parameters(), *self._module.buffers())
        return [_fingerprint(tensor) for tensor in tensors]


def _fingerprint(tensor: Tensor) -> _Fingerprint:
    # Tensors created in inference mode have no version counter, sharded ones no address.
    version = -1 if tensor.is_inference() else tensor._version
    address = tensor.data_ptr() if type(tensor) in _PLAIN and tensor.device.type != "meta" else 0
    return weakref.ref(tensor), version, address


def _equal(a: _Fingerprint, b: _Fingerprint) -> bool:
    return a[0]() is b[0]() is not None and a[1:] == b[1:]
