"""One encoder with a head on its features: classifiers, masked image models, encoders without head.

    pixel_values -> encoders.image -> features [N, S, D] -> head -> logits

Traps: the head may be part of the encoder, whose `classifies` is then True; without any head there are only features;
`bool_masked_pos` needs an encoder with a mask token.
"""

from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.models.output import Output
from polymodal.nn.losses import classification_loss

IMAGE = ("pixel_values", "bool_masked_pos", "interpolate_pos_encoding")
"""Inputs of an image encoder, in transformers' names."""


class EncoderClassifier(nn.Module):
    """`encoder` is called with the `inputs` that the batch has, `head` (or None) with its features."""

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None = None,
        inputs: tuple[str, ...] = IMAGE,
        modality: str = "image",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({modality: encoder})
        self.head = head
        self.modality = modality
        self.inputs = inputs

    @property
    def output_fields(self) -> frozenset[str]:
        """Without a head there are no logits."""
        encoder: Any = self.encoders[self.modality]
        classifies = self.head is not None or getattr(encoder, "classifies", False)
        return frozenset({"hidden", "features"}) | ({"logits"} if classifies else frozenset())

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """hidden [N, S, D]: last hidden state of the encoder; logits with a head: [N, classes], or per patch.

        labels: classes [N] (or per patch, -100: ignored), or float scores of the logits' shape (sigmoid).  Raises
        ConfigError for a tensor that the encoder does not take, and for labels without a head.
        """
        hidden = self.encode(**batch)
        encoder: Any = self.encoders[self.modality]
        if "logits" not in self.output_fields:
            if labels is not None:
                raise ConfigError("this encoder has no head: it returns features, but no logits and no loss")
            return Output(hidden=hidden, features={self.modality: hidden})
        logits = encoder.classify(hidden) if self.head is None else self.head(hidden)
        loss = None if labels is None else classification_loss(logits, labels)
        losses = None if loss is None else {"classification": loss}
        return Output(logits=logits, hidden=hidden, features={self.modality: hidden}, loss=loss, losses=losses)

    def encode(self, **batch: Any) -> Tensor:
        """Features [N, S, D].  Raises ConfigError for a tensor that the encoder does not take."""
        tensors = {name: value for name, value in batch.items() if value is not None}
        if unknown := set(tensors) - set(self.inputs):
            raise ConfigError(f"this encoder takes {', '.join(self.inputs)}; found {sorted(unknown)}")
        if self.inputs[0] not in tensors:
            raise ConfigError(f"this encoder needs {self.inputs[0]}; found {sorted(tensors)}")
        return self.encoders[self.modality](**tensors)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """{modality: last hidden state}."""
        return {self.modality: self.encode(**batch)}
