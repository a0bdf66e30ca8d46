"""The U-Net, the codec and the schedule of Stable Diffusion against diffusers, with every weight random."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.errors import ConfigError
from polymodal.generators import kl_codec, unet, unet_keys
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.weights.load import load_into

diffusers = pytest.importorskip("diffusers")
TWO = {"block_out_channels": [16, 32, 32], "attention_head_dim": [2, 4, 8], "cross_attention_dim": 20,
       "layers_per_block": 2, "norm_num_groups": 8, "sample_size": 8, "use_linear_projection": True,
       "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
       "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}  # fmt: skip
ONE = {**TWO, "block_out_channels": [8, 24], "attention_head_dim": 4, "layers_per_block": 1, "norm_num_groups": 4,
       "use_linear_projection": False, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
       "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "in_channels": 5, "out_channels": 3}  # fmt: skip
VAE = {"block_out_channels": [32, 64], "layers_per_block": 2, "latent_channels": 3,
       "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("config", [TWO, ONE])
def test_noise_is_that_of_the_library(config):
    theirs = diffusers.UNet2DConditionModel(**config).eval()
    randomise.fill(theirs)
    ours = unet.parse_config(config).build().eval()
    load_into(ours, theirs.state_dict(), unet_keys.published_keys(config["use_linear_projection"]))
    latents = randomise.values("latents", (2, config.get("in_channels", 4), 8, 12))
    context, times = randomise.values("context", (2, 5, 20)), torch.tensor([3, 981])
    expected = theirs(latents, times, context).sample
    assert (ours(latents, times, context) - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("old", [False, True])
def test_the_codec_is_that_of_the_library(old):
    theirs = diffusers.AutoencoderKL(**VAE).eval()
    randomise.fill(theirs)
    weights = theirs.state_dict()
    if old:
        words = zip(kl_codec.ATTENTION.values(), kl_codec.OLD_ATTENTION.values(), strict=True)
        for new, before in words:
            weights = {name.replace(f".{new}.", f".{before}."): value for name, value in weights.items()}
    config = kl_codec.parse_config(VAE)
    ours = config.build().eval()
    load_into(ours, weights, kl_codec.published_keys(config, kl_codec.OLD_ATTENTION if old else kl_codec.ATTENTION))
    pixels = randomise.values("pixels", (2, 3, 8, 12))
    found = theirs.encode(pixels).latent_dist
    assert (ours(pixels) - found.mean * 0.18215).abs().max() < 1e-4
    noise = randomise.values("noise", tuple(found.mean.shape))
    assert (ours.encode(pixels, noise) - (found.mean + found.std * noise) * 0.18215).abs().max() < 1e-4
    latents = randomise.values("latents", (2, 3, 4, 6))
    assert (ours.decode(latents) - theirs.decode(latents / 0.18215).sample).abs().max() < 1e-4


def test_steps_back_are_those_of_the_library():
    theirs = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                     clip_sample=False, timestep_spacing="leading")  # fmt: skip
    ours = NoiseSchedule()
    theirs.set_timesteps(50)
    assert ours.times(50) == theirs.timesteps.tolist()
    sample, noise = randomise.values("sample", (2, 4, 3, 3)), randomise.values("noise", (2, 4, 3, 3))
    for time in (980, 500, 20, 0):
        fresh = torch.randn(sample.shape, generator=torch.Generator().manual_seed(1))
        expected = theirs.step(noise, time, sample, generator=torch.Generator().manual_seed(1)).prev_sample
        assert (ours.previous(sample, noise, time, 50, fresh) - expected).abs().max() < 1e-5
    times = torch.tensor([0, 999])
    assert (ours.noisy(sample, noise, times) - theirs.add_noise(sample, noise, times)).abs().max() < 1e-6
    with pytest.raises(ConfigError, match="steps: expected 1 to 1000, found 0"):
        ours.times(0)


def test_refusals_name_what_was_found():
    with pytest.raises(ConfigError, match="block type 'AttnDownBlock2D' is not supported"):
        unet.parse_config({**TWO, "down_block_types": ["AttnDownBlock2D"] * 3})
    with pytest.raises(ConfigError, match="to mirror down_block_types"):
        unet.parse_config({**TWO, "up_block_types": ["CrossAttnUpBlock2D"] * 3})
    with pytest.raises(ConfigError, match="multiple of 7 groups"):
        unet.parse_config({**TWO, "norm_num_groups": 7})
    with pytest.raises(ConfigError, match=r"multiples of 4, found \[6, 8\]"):
        unet.parse_config(TWO).build()(torch.zeros(1, 4, 6, 8), torch.zeros(1), torch.zeros(1, 1, 20))
    with pytest.raises(ConfigError, match="norm_num_groups: expected 32, found 8"):
        kl_codec.parse_config({**VAE, "norm_num_groups": 8})
    with pytest.raises(ConfigError, match="up_block_types: expected UpDecoderBlock2D alone"):
        kl_codec.parse_config({**VAE, "up_block_types": ["AttnUpDecoderBlock2D"]})
