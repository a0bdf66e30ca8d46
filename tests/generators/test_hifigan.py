"""HiFi-GAN against SpeechT5HifiGan of transformers, which AudioLDM uses; AudioLDM's codec against diffusers."""

from __future__ import annotations

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.library import quiet
from polymodal.errors import ConfigError
from polymodal.generators import kl_codec
from polymodal.generators.hifigan import HiFiGANConfig, official_keys, parse_config

SIZES = {"upsample_initial_channel": 16, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4],
         "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]]}  # fmt: skip


def test_samples_are_those_of_the_library() -> None:
    with quiet() as transformers:
        oracle = transformers.SpeechT5HifiGan(transformers.SpeechT5HifiGanConfig(
            model_in_dim=12, normalize_before=False, leaky_relu_slope=0.1, **SIZES)).eval()  # fmt: skip
    randomise.fill(oracle)
    model = parse_config({**SIZES, "num_mels": 12}).build()
    names = {name.replace("upsampler.", "ups."): x for name, x in oracle.state_dict().items()
             if name not in ("mean", "scale")}  # fmt: skip
    model.load_state_dict(dict(official_keys().apply(names, model)))
    mel = randomise.values("mel", (2, 12, 9))
    with torch.no_grad():
        assert float((model(mel) - oracle(mel.transpose(1, 2))).abs().max()) < 1e-5
    assert model.config.hop == 8 and HiFiGANConfig().hop == 160


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="a kernel for each of the rates"):
        HiFiGANConfig(rates=(2, 2), rate_kernels=(4,))


def test_a_codec_of_spectrograms_is_that_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    oracle = diffusers.AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=8, block_out_channels=(32, 32, 64), layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3).eval()  # fmt: skip
    randomise.fill(oracle)
    sizes = {"ch": 32, "ch_mult": [1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [], "z_channels": 8,
             "in_channels": 1, "out_ch": 1}  # fmt: skip
    config = kl_codec.official_config(sizes, 0.9228)
    codec = config.build()
    codec.load_state_dict(dict(kl_codec.published_keys(config).apply(oracle.state_dict(), codec)))
    mel, latents = randomise.values("mel", (1, 1, 16, 64)), randomise.values("latents", (1, 8, 4, 16))
    with torch.no_grad():
        error = (codec.encode(mel) / 0.9228 - oracle.encode(mel).latent_dist.mean).abs().max()
        assert float(error) < 1e-5
        assert float((codec.decode(latents * 0.9228) - oracle.decode(latents).sample).abs().max()) < 1e-5
    with pytest.raises(ConfigError, match="attn_resolutions"):
        kl_codec.official_config({**sizes, "attn_resolutions": [16]}, 1.0)
