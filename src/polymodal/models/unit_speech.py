"""The two halves of a speech codec of units as models of their own: what hears, and what speaks.

input_values [N, n] -> HuBERT, a layer inside -> features [N, T, D]          (clusters of them are the units)
code [1, S] -> durations, HiFi-GAN -> predictions "waveform" [1, n]
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from polymodal.encoders.hubert import Hubert, HubertConfig
from polymodal.generators.unit_vocoder import UnitVocoder, UnitVocoderConfig
from polymodal.models.output import Output


class UnitEncoder(nn.Module):
    """Samples of recordings of one length -> features of one layer."""

    output_fields = frozenset({"hidden", "features"})

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.encoder: Hubert = config.build()

    def features(self, *, input_values: Tensor, **others: Any) -> dict[str, Tensor]:
        """{"audio": [N, T, D]}"""
        return {"audio": self.encoder(input_values)}

    def forward(self, *, input_values: Tensor) -> Output:
        found = self.encoder(input_values)
        return Output(hidden=found, features={"audio": found})


class UnitSpeaker(nn.Module):
    """Merged units of one recording -> its samples."""

    output_fields = frozenset({"predictions"})

    def __init__(self, config: UnitVocoderConfig) -> None:
        super().__init__()
        self.vocoder: UnitVocoder = config.build()

    def forward(self, *, code: Tensor) -> Output:
        return Output(predictions={"waveform": self.vocoder(code)})
