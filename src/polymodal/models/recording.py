"""What a decoder computes inside, where a caller asks for it: hidden states and attention weights of every layer.

    with recording(model, hidden_states=True, attentions=True) as recorded:   hooks on the blocks, for this thread
        output = model(**batch)
    output = recorded.in_output(output)

A forward without a recording runs no line of this.  As published: the first hidden states are the embeddings, the last
ones are after the final norm, so that there is one more of them than layers.
Traps: attention kernels give no weights; they are computed anew from queries and keys, for all of [H, T, S].
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.nn.attention import Attention


class Recording:
    """hidden_states: [B, T, D] of embeddings and layers; attentions: [B, H, T, S] of layers."""

    def __init__(self, hidden_states: bool, attentions: bool) -> None:
        self._thread = threading.get_ident()  # another thread may run the same module now
        self._asked = hidden_states, attentions
        self.hidden_states: list[Tensor] = []
        self.attentions: list[Tensor] = []

    def in_output(self, output: Output) -> Output:
        """The output with the fields that were asked for."""
        hidden_states, attentions = self._asked
        return output._replace(
            hidden_states=tuple(self.hidden_states) if hidden_states else None,
            attentions=tuple(self.attentions) if attentions else None,
        )

    def hooks(self, backbone: Decoder) -> list[Any]:
        """Registers them; returns their handles."""
        handles: list[Any] = []
        if self._asked[0]:
            handles.append(backbone.blocks[0].register_forward_pre_hook(self._enter))
            handles += [block.register_forward_hook(self._leave) for block in backbone.blocks]
            handles.append(backbone.register_forward_hook(self._end))
        if self._asked[1]:
            layers = [block.attn for block in backbone.blocks if isinstance(block.attn, Attention)]
            handles += [layer.register_forward_hook(self._attend, with_kwargs=True) for layer in layers]
        return handles

    def _enter(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == self._thread:
            self.hidden_states = [inputs[0]]

    def _leave(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if threading.get_ident() == self._thread:
            self.hidden_states.append(output)

    def _end(self, backbone: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if threading.get_ident() == self._thread:
            self.hidden_states[-1] = output

    def _attend(self, attention: Attention, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if threading.get_ident() == self._thread:
            self.attentions.append(attention.weights(*inputs, **named))


@contextmanager
def recording(model: nn.Module, hidden_states: bool, attentions: bool) -> Iterator[Recording]:
    """Records one forward of a model with a decoder, without cache.

    Raises ConfigError for another model, and for attentions of layers that have another kind of attention.
    """
    backbone = model.backbone if isinstance(model, MultimodalLM) else None
    if not isinstance(backbone, Decoder):
        raise ConfigError(
            f"{type(model).__name__}: output_hidden_states and output_attentions are for language models with a "
            "decoder; register forward hooks on model.module for what others compute inside"
        )
    if attentions and not all(isinstance(block.attn, Attention) for block in backbone.blocks):
        raise ConfigError("output_attentions: this decoder's attention has no weights to show; leave it out")
    found = Recording(hidden_states, attentions)
    handles = found.hooks(backbone)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
