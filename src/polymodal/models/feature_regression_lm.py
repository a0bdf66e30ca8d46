"""A language model that reads vectors of ImageBind and says which comes next: CoDi-2 (arXiv 2311.18775).

    pixels -> ImageBind, every token projected [N, 1 + P, E], a sound one vector [N, E] -> MLP with a norm inside
        -> spliced at placeholders -> LLaMA
    the state at t -> MLP with a norm inside -> the vector at t + 1: behind the last of the ids of "<p>" it is what a
    diffusion model on ImageBind's vectors draws             (`conditions`, `render`)

Traps: a picture's vectors are divided by the length of its first, that of the class token, which is what is drawn;
sounds keep ImageBind's scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.encoders.imagebind import ImageBindEncoder
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.models.signal_token_lm import SignalTokenLM


class NormedMLP(nn.Module):
    """linear, GELU, norm, linear: `[..., E] -> [..., D]`"""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(width, out), nn.LayerNorm(out), nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(nn.functional.gelu(self.first(x))))


class TokenVectors(nn.Module):
    """ImageBind's encoder with every token brought to the joint space: `[N, 3, H, W] -> [N, 1 + P, E]`."""

    def __init__(self, encoder: ImageBindEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, values: Tensor) -> Tensor:
        if self.encoder.proj is None:
            raise ConfigError("imagebind: this encoder was built for its tokens, without the joint space")
        return self.encoder.proj(self.encoder(values))


class FeatureReader(nn.Module):
    """The MLP that all senses share: `[N, E]` or `[N, S, E] -> [N, S, D]`.  by_first: an item's vectors are divided by
    the length of its first."""

    def __init__(self, mlp: NormedMLP, by_first: bool) -> None:
        super().__init__()
        self.mlp, self.by_first = mlp, by_first

    def scaled(self, vectors: Tensor) -> Tensor:
        """Vectors as they are read and foretold [N, S, E]."""
        vectors = vectors if vectors.dim() == 3 else vectors[:, None]
        return vectors / vectors[:, :1].norm(dim=-1, keepdim=True) if self.by_first else vectors

    def forward(self, vectors: Tensor) -> Tensor:
        return self.mlp(self.scaled(vectors))


class NextFeature(nn.Module):
    """states [k, n, D] of a signal -> the vector behind its last token [k, 1, E]."""

    def __init__(self, mlp: NormedMLP) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        return self.mlp(states[:, -1:])


class FeatureRegressionLM(SignalTokenLM):
    """See the module docstring; projectors.image is a NextFeature."""

    def foretold(self, output: Output, batch: Mapping[str, Any], wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors that the states before `wanted` [B, T] places foretell, and those that stand there, [k, E] each.

        Raises PromptError where a place holds no item of the batch, or nothing is before it.
        """
        ids = batch["input_ids"]
        assert output.hidden is not None
        if bool(wanted[:, 0].any()):
            raise PromptError("a vector that is foretold needs a token before it; it stands at the begin of a row")
        next_feature: Any = self.projectors["image"]
        found = next_feature.mlp(output.hidden[:, :-1][wanted[:, 1:]])
        targets = found.new_zeros(*ids.shape, found.shape[-1])
        placed = torch.zeros_like(wanted)
        for name, vectors in self.vectors(batch).items():
            here = ids == self.placeholders[name]
            targets[here] = vectors.flatten(0, 1).to(targets.dtype)
            placed = placed | here
        if bool((wanted & ~placed).any()):
            raise PromptError(
                "a vector is to be foretold where no item stands; labels of features stand at placeholders"
            )
        return found, targets[wanted]

    @torch.no_grad()
    def vectors(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """By modality the vectors [N, S, E] of the batch's items, as they are read."""
        found = {}
        for name, inputs in self.inputs.items():
            if batch.get(inputs.values) is not None:
                uses = inputs.uses or name
                reader: Any = self.connectors[uses]
                found[name] = reader.scaled(self.encoders[uses](batch[inputs.values]))
        return found
