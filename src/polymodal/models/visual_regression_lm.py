"""A language model whose next token is a word or a picture's next vector: Emu (arXiv 2307.05222).

    pixel_values -> encoders.image [N, S, V] -> connectors.image: learned tokens in order, which look at them [N, n, D]
        -> at <image>, between [IMG] and [/IMG] -> backbone -> head: words;  regression: the vector that comes next
    after [IMG]: regression -> vector -> backbone -> regression -> ... n vectors, the condition of a diffusion model

Traps: predictions stand at [IMG] and <image>, what they should be at <image> and [/IMG], whose word vector is the last;
targets are the model's own vectors, and get no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.encoder_decoder import Source, StackConfig
from polymodal.errors import PromptError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output, total_loss
from polymodal.nn.mask import MaskSpec


@dataclass(frozen=True, kw_only=True)
class PictureMarks:
    """Ids around and at a picture's vectors."""

    begin: int
    image: int
    end: int


class CausalFormer(nn.Module):
    """Learned tokens through a decoder that looks at the encoder's features: `[N, S, V] -> [N, tokens, out]`."""

    def __init__(self, stack: StackConfig, *, width: int, tokens: int, out_width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.stack = stack.build(width)
        self.proj = nn.Linear(width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        """Each token sees those before it, and all features."""
        tokens = self.tokens.expand(len(features), -1, -1)
        return self.proj(self.stack(tokens, MaskSpec(), Source(features=features)))


class VisualRegressionLM(MultimodalLM):
    """count: vectors of a picture."""

    output_fields = MultimodalLM.output_fields | {"predictions"}

    def __init__(
        self, encoder: nn.Module, connector: nn.Module, backbone: Decoder, marks: PictureMarks, count: int
    ) -> None:
        super().__init__({"image": encoder}, {"image": connector}, backbone, {"image": marks.image},
                         positions_ignore_padding=True)  # fmt: skip
        self.regression = nn.Linear(backbone.config.width, backbone.config.width, bias=False)
        self.marks, self.count = marks, count

    def forward(self, **batch: Any) -> Output:
        """As in MultimodalLM.  predictions: `visual` [k, D], the next vector at each [IMG] and <image>, row by row;
        with labels the loss `regression`, their mean squared error."""
        output = super().forward(**batch)
        assert output.hidden is not None
        ids, marks = batch["input_ids"], self.marks
        found = self.regression(output.hidden[(ids == marks.image) | (ids == marks.begin)])
        output = output._replace(predictions={"visual": found})
        if output.losses is None or not len(found):
            return output
        wanted = (ids == marks.image) | (ids == marks.end)
        if int(wanted.sum()) != len(found):
            raise PromptError(f"{len(found)} vectors are predicted, {int(wanted.sum())} stand in the batch: "
                              "every [IMG] needs its [/IMG]")  # fmt: skip
        with torch.no_grad():
            targets = self.embed_inputs(self.prepare_batch(batch), output.features)[wanted]
        losses = {**output.losses, "regression": F.mse_loss(found.float(), targets.float())}
        return output._replace(losses=losses, loss=total_loss(losses))

    @torch.inference_mode()
    def imagine(self, **batch: Any) -> Tensor:
        """The vectors of the picture that comes next [1, count, D]; the ids of one row without padding end in [IMG].

        Raises PromptError for another row.
        """
        ids = batch["input_ids"]
        if len(ids) != 1 or int(ids[0, -1]) != self.marks.begin:
            raise PromptError("imagine: expected one row that ends in [IMG]")
        given: Mapping[str, Any] = self.prepare_batch({**batch, "attention_mask": None})
        length = ids.shape[1]
        cache = self.backbone.new_cache(1, length + self.count)
        hidden = self.run_backbone(given, self.features(**given), cache)
        found = [self.regression(hidden[:, -1:])]
        for index in range(self.count - 1):
            position = torch.full((1, 1), length + index, device=ids.device)
            hidden = self.backbone(found[-1], position, MaskSpec(), cache=cache)
            found.append(self.regression(hidden))
        return torch.cat(found, 1)
