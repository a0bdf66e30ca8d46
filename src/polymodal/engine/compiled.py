"""One decoding step of all rows as one compiled graph with static shapes: `torch.compile`, on CUDA a CUDA graph.

    CompiledStep(model).logits(ids [R], position [.., R], cache) -> float32 [R, V], and one column more in the cache

Shapes are those of the cache's buffers, which double: rows 1, 2, 4, ...; columns 256, 512, ....  So a server compiles a
few graphs and then only replays them.  Slots without a row are computed with the others and read by nobody.  Columns
are masked by numbers that lie on the device, so that nothing waits for it and nothing is compiled again.

Trap: a graph mutates the buffers that it was made with; they are marked static, else CUDA graphs would be skipped.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polymodal.backbones.decoder import Decoder
from polymodal.engine.rows import RowCache
from polymodal.generation.decode_state import has_learned_positions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.mask import MaskSpec

GRAPHS = 64  # shapes of buffers: doublings of rows by doublings of columns
_LOG = logging.getLogger(__name__)


class _Layer:
    """Writes one column of a layer's buffers and hands out all of them."""

    source = None

    def __init__(self, pair: tuple[Tensor, Tensor], column: Tensor) -> None:
        self._pair, self._column = pair, column

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self._pair
        keys.index_copy_(2, self._column, k)
        values.index_copy_(2, self._column, v)
        return keys, values


class _Columns:
    """A cache of which every column is there and a mask says which count; what `Decoder.forward` asks of one."""

    def __init__(self, tensors: list[tuple[Tensor, Tensor]], column: Tensor) -> None:
        self._tensors, self._column = tensors, column
        self.length = tensors[0][0].shape[2] - 1

    def layer(self, index: int) -> _Layer:
        return _Layer(self._tensors[index], self._column)

    def advance(self, count: int) -> None:
        """Nothing: the caller counts."""


class CompiledStep:
    """Steps of `model`; `backend` is torch.compile's.  Raises nothing: what cannot be compiled is said once."""

    def __init__(self, model: MultimodalLM, backend: str | Callable[..., Any] = "inductor") -> None:
        self._model, self._backend = model, backend
        self._step: Callable[..., Tensor] | None = None
        self._marked: list[Tensor] = []
        self.why_not = why_not(model, backend)
        if self.why_not:
            _LOG.warning("decoding is not compiled: %s", self.why_not)

    def logits(self, ids: Tensor, position: Tensor, cache: RowCache) -> Tensor | None:
        """The next logits of the rows in use, or None where the step has to be computed as it is.

        ids int64 [R]; position int64 [R] or [axes, R]; on success the cache has one column more.
        """
        if self.why_not:
            return None
        tensors, end = cache.for_writing()
        slots, rows = len(tensors[0][0]), cache.rows
        device = tensors[0][0].device
        firsts = torch.full((slots,), end + 1, dtype=torch.int64)  # a slot without a row sees nothing
        firsts[:rows] = torch.tensor([end - length for length in cache.lengths])
        if has_learned_positions(self._model):
            position = position.clamp_max(self._model.backbone.config.max_length - 1)
        spare = (0, slots - rows)
        given = (
            torch.nn.functional.pad(ids, spare),
            torch.nn.functional.pad(position, spare),
            firsts.to(device),
            torch.tensor([end], device=device),
        )
        try:
            with torch._dynamo.config.patch(recompile_limit=GRAPHS):
                found = self._compiled(tensors)(*given, tensors)[:rows].clone()  # the next replay writes over it
        except Exception as problem:  # a compiler may fail in any way
            self.why_not = " ".join(str(problem).split())[:300] or type(problem).__name__
            _LOG.warning("decoding is not compiled: %s", self.why_not)
            return None
        cache.written()
        return found

    def _compiled(self, tensors: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
        """The graph for buffers of these shapes."""
        if all(tensors[0][0] is not each for each in self._marked):
            self._marked = [each for pair in tensors for each in pair]
            for each in self._marked:
                torch._dynamo.mark_static_address(each)
        if self._step is None:
            options: dict[str, Any] = {"backend": self._backend, "fullgraph": True, "dynamic": False}
            if tensors[0][0].device.type == "cuda" and self._backend == "inductor":
                options["mode"] = "reduce-overhead"  # CUDA graphs
            self._step = torch.compile(self._plain, **options)
        return self._step

    def _plain(
        self, ids: Tensor, position: Tensor, firsts: Tensor, end: Tensor, tensors: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """What is compiled: every slot's last id -> float32 [slots, V]."""
        backbone: Any = self._model.backbone
        columns = torch.arange(tensors[0][0].shape[2], device=ids.device)
        seen = (columns >= firsts[:, None]) & (columns <= end)
        hidden = backbone(
            backbone.embed(ids[:, None]),
            position[..., None],
            MaskSpec(attention_mask=seen),
            cache=_Columns(tensors, end),
        )
        return self._model.compute_logits(hidden[:, -1]).float()


def why_not(model: MultimodalLM, backend: str | Callable[..., Any] = "inductor") -> str:
    """Why steps of this model are not compiled, in one line; empty where they are."""
    backbone = model.backbone
    if not isinstance(backbone, Decoder):
        return f"{type(backbone).__name__} has a cache of its own kind"
    config = backbone.config
    if any(block.attention.window is not None for block in config.blocks):
        return "its attention has a window, whose place in a static graph is not known"
    if config.rope is not None and config.rope.scaling is not None and config.rope.scaling.threshold is not None:
        return "its rotary frequencies depend on the length"
    if backend == "inductor" and backbone.embed_tokens.weight.device.type == "cpu" and not shutil.which("g++"):
        return "there is no C++ compiler"
    return ""
