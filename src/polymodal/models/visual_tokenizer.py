"""VQ-KD, the visual tokenizer of BEiT v2 (arXiv 2208.06366): codes that a teacher's features can be read from.

    pixel_values in -1 .. 1 -> ViT -> patches -> dense, tanh, dense -> unit vectors [N, P, 32] -> nearest of 8192 codes
    codes' vectors -> ViT with patches of 1 x 1 -> dense, tanh, dense -> features [N, P, 512 or 768], like the teacher's
Codes follow the vectors that chose them as a moving average of unit length; those that nobody chose keep their place.
Traps: without the unit length every code changes; gradients pass the choice as if it were not there; pixels have no
ImageNet mean and deviation here, though those of the masked model have.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.beit import BeitConfig
from polymodal.errors import ConfigError
from polymodal.models.output import Output
from polymodal.nn.computed import computed_buffer
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class VisualTokenizerConfig:
    """decoder: its channels are the code's width, its patches 1 x 1.  outputs: width of the teacher's features.  decay:
    of the moving average of codes."""

    encoder: BeitConfig
    decoder: BeitConfig
    codes: int = 8192
    code_width: int = 32
    outputs: int = 512
    norm: NormConfig
    decay: float = 0.99

    def build(self) -> "VisualTokenizer":
        return VisualTokenizer(self)


class VisualTokenizer(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"hidden", "features", "predictions"})
    usage: Tensor
    started: Tensor

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__()
        width, decoder = config.encoder.width, config.decoder.width
        self.config = config
        self.encoder, self.decoder = config.encoder.build(), config.decoder.build()
        self.encoder_norm, self.decoder_norm = config.norm.build(width), config.norm.build(decoder)
        self.to_code = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_width))
        self.from_code = nn.Sequential(nn.Linear(decoder, decoder), nn.Tanh(), nn.Linear(decoder, config.outputs))
        # Moved by the average of what chooses them, never by a gradient.
        self.codebook = nn.Parameter(F.normalize(torch.randn(config.codes, config.code_width), dim=-1), False)
        computed_buffer(self, "usage", lambda: torch.zeros(config.codes))
        computed_buffer(self, "started", lambda: torch.ones(1))

    def vectors(self, pixel_values: Tensor) -> Tensor:
        """Unit vectors of patches [N, P, code_width].  Raises ConfigError for pixels that cannot be -1 .. 1."""
        if pixel_values.is_floating_point() and not pixel_values.is_meta and float(pixel_values.abs().max()) > 8:
            raise ConfigError("visual tokenizer: pixel_values lie in -1 .. 1; divide by 127.5 and subtract 1")
        states = self.encoder_norm(self.encoder(pixel_values)[:, 1:])
        return F.normalize(self.to_code(states.to(self.codebook.dtype)), dim=-1)

    def nearest(self, vectors: Tensor) -> Tensor:
        """Codes [N, P] of unit vectors, by the square of their distance."""
        codes = self.codebook
        distance = vectors.square().sum(-1, keepdim=True) + codes.square().sum(-1) - 2 * vectors @ codes.T
        return distance.argmin(-1)

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Codes of patches, int64 [N, P]."""
        return self.nearest(self.vectors(pixel_values))

    def read(self, vectors: Tensor) -> Tensor:
        """Vectors of codes [N, P, code_width] -> what the teacher may say of the patches [N, P, outputs]."""
        plane = vectors.transpose(1, 2).unflatten(2, self.config.encoder.grid)
        return self.from_code(self.decoder_norm(self.decoder(plane)[:, 1:]))

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """Unit vectors of patches, before a code is chosen."""
        return {"image": self.vectors(_pixels(batch))}

    def forward(self, *, teacher_features: Tensor | None = None, **batch: Any) -> Output:
        """predictions: "tokens" int64 [N, P], "features" [N, P, outputs].  hidden: the unit vectors.

        teacher_features [N, P, outputs]: the loss is 1 - cosine of them and what is read, and the squared distance of
        vectors to their codes.
        """
        vectors = self.vectors(_pixels(batch))
        tokens = self.nearest(vectors)
        chosen = self.codebook[tokens]
        found = self.read(vectors + (chosen - vectors).detach())
        losses = None
        if teacher_features is not None:
            losses = {"reading": (1 - F.cosine_similarity(found.float(), teacher_features.float(), dim=-1)).mean(),
                      "commitment": F.mse_loss(vectors, chosen.detach())}  # fmt: skip
        return Output(
            hidden=vectors, features={"image": vectors}, predictions={"tokens": tokens, "features": found},
            loss=None if losses is None else sum(losses.values(), torch.zeros(())), losses=losses,
        )  # fmt: skip

    @torch.no_grad()
    def follow(self, vectors: Tensor, tokens: Tensor) -> None:
        """Move the codes towards the mean of the vectors [..., E] that chose them, one step of training."""
        flat, chosen = vectors.flatten(0, -2).float(), tokens.flatten()
        count = torch.bincount(chosen, minlength=self.config.codes).to(flat.dtype)
        self.usage.mul_(self.config.decay).add_(count, alpha=1 - self.config.decay)
        total = torch.zeros(self.config.codes, flat.shape[1], device=flat.device).index_add_(0, chosen, flat)
        mean = F.normalize(total / count.clamp_min(1)[:, None], dim=-1)
        mean = torch.where(count[:, None] > 0, mean, self.codebook)
        self.codebook.lerp_(mean.to(self.codebook.dtype), 1 - self.config.decay)
        self.codebook.copy_(F.normalize(self.codebook, dim=-1))

    @torch.no_grad()
    def begin(self, vectors: Tensor, steps: int = 10) -> None:
        """Codes of the first batch: k-means of its unit vectors [..., E] by cosine."""
        flat = vectors.flatten(0, -2).float()
        count = self.config.codes
        places = torch.randperm(len(flat)) if len(flat) >= count else torch.randint(len(flat), (count,))
        means = flat[places[:count].to(flat.device)]
        for _ in range(steps):
            chosen = (flat @ means.T).argmax(-1)
            size = torch.bincount(chosen, minlength=count)
            total = torch.zeros_like(means).index_add_(0, chosen, flat)
            means = torch.where(size[:, None] > 0, F.normalize(total, dim=-1), means)
        self.codebook.copy_(means)


def _pixels(batch: dict[str, Any]) -> Tensor:
    given = {name: value for name, value in batch.items() if value is not None}
    if set(given) != {"pixel_values"}:
        raise ConfigError(f"visual tokenizer: it takes pixel_values, found {sorted(given)}")
    return given["pixel_values"]
