"""A vocoder as a model of its own: the logarithm of a mel spectrogram to a waveform.

spectrogram [N, M, T] -> HiFi-GAN -> predictions "waveform" [N, n]
"""

from __future__ import annotations

from torch import Tensor, nn

from polymodal.generators.hifigan import HiFiGAN, HiFiGANConfig
from polymodal.models.output import Output


class SpectrogramVocoder(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"predictions"})

    def __init__(self, config: HiFiGANConfig) -> None:
        super().__init__()
        self.vocoder: HiFiGAN = config.build()

    def forward(self, *, spectrogram: Tensor) -> Output:
        return Output(predictions={"waveform": self.vocoder(spectrogram)})
