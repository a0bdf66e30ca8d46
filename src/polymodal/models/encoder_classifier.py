"""One encoder and a head on its features: classifiers, masked image models, bare encoders.

    pixel_values -> encoders.image -> features [N, S, D] -> head -> logits

Traps: the head may be a part of the encoder, which then says `classifies`; a bare encoder has features only;
`bool_masked_pos` needs an encoder with a mask token.
"""

from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError

IMAGE = ("pixel_values", "bool_masked_pos", "interpolate_pos_encoding")
"""What an image encoder takes, in the transformers library's names."""


class EncoderClassifier(nn.Module):
    """`encoder` is called with those of `inputs` that a batch has; `head` (or None) with its features."""

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

    def forward(self, **batch: Any) -> Tensor:
        """Features [N, S, D].  Raises ConfigError for a tensor the encoder does not take; `labels` are let through."""
        given = {name: value for name, value in batch.items() if value is not None and name != "labels"}
        if unknown := set(given) - set(self.inputs):
            raise ConfigError(f"this encoder takes {', '.join(self.inputs)}; found {sorted(unknown)}")
        if self.inputs[0] not in given:
            raise ConfigError(f"this encoder needs {self.inputs[0]}; found {sorted(given)}")
        return self.encoders[self.modality](**given)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """The encoder's last hidden state by its modality."""
        return {self.modality: self(**batch)}

    def logits(self, **batch: Any) -> Tensor:
        """What the head makes of the features; raises ConfigError without a head."""
        features = self(**batch)
        if self.head is not None:
            return self.head(features)
        encoder: Any = self.encoders[self.modality]
        if not getattr(encoder, "classifies", False):
            raise ConfigError("this is a bare encoder without a head: it has features, no logits")
        return encoder.classify(features)
