"""A folder of Stable Diffusion, written by diffusers: latents, pictures and words equal to its pipeline's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.check import randomise, stable_diffusion
from polymodal.checkpoints.stable_diffusion import StableDiffusion, find
from polymodal.errors import ConfigError, WeightsError

LENGTH = 12


@pytest.fixture(scope="module", params=[False, True], ids=["convolutions", "linears"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, StableDiffusion]:
    """The library's pipeline, and ours of the folder that it wrote.  linears: as Stable Diffusion 2 has them."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("diffusion")
    stable_diffusion.write_tokenizer(folder / "words")
    parts = {
        "unet": diffusers.UNet2DConditionModel(**stable_diffusion.unet_config(32, request.param)),
        "vae": diffusers.AutoencoderKL(**stable_diffusion.CODEC),
        "text_encoder": transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**stable_diffusion.text_config(32, LENGTH))
        ),
    }
    for part in parts.values():
        randomise.fill(part)
    settings = {name: value for name, value in stable_diffusion.SCHEDULER.items() if name[0] != "_"}
    pipeline = diffusers.StableDiffusionPipeline(
        **parts, scheduler=diffusers.PNDMScheduler(**{
            name: value for name, value in settings.items() if name != "clip_sample"}),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(folder / "words", model_max_length=LENGTH),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "sd")
    place = find(folder)
    assert place == folder / "sd"
    return pipeline, StableDiffusion(place)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_latents_are_those_of_the_library(both: tuple[Any, StableDiffusion], guidance: float) -> None:
    theirs, ours = both
    conditions = randomise.values("conditions", (2, LENGTH, 32))
    given = {"num_inference_steps": 8, "guidance_scale": guidance, "prompt_embeds": conditions}
    expected = theirs(**given, generator=torch.Generator().manual_seed(3), output_type="latent").images
    found = ours.pipeline().latents(conditions, guidance=guidance, steps=8, generator=torch.Generator().manual_seed(3))
    assert ((found - expected).abs() / (1 + expected.abs())).max() < 1e-4


def test_pictures_and_words_are_those_of_the_library(both: tuple[Any, StableDiffusion]) -> None:
    theirs, ours = both
    expected = theirs.encode_prompt(["a cat", "", "cat " * 40], "cpu", 1, False)[0]
    assert (ours.text(["a cat", "", "cat " * 40], expected) - expected).abs().max() < 1e-4
    given = {"prompt_embeds": expected[:1], "negative_prompt_embeds": expected[2:], "num_inference_steps": 3}
    given |= {"width": 24, "height": 16}
    wanted = theirs(**given, generator=torch.Generator().manual_seed(0)).images[0]
    found = ours.pipeline()(**given, generator=torch.Generator().manual_seed(0)).images[0]
    assert found.size == wanted.size == (24, 16)
    assert max(abs(a - b) for a, b in zip(found.tobytes(), wanted.tobytes(), strict=True)) <= 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = stable_diffusion.write_folder(tmp_path / "sd", 32)
    pipeline, condition = StableDiffusion(folder).pipeline(), torch.zeros(1, 4, 32)
    with pytest.raises(ConfigError, match="steps: expected 1 to 1000, found 0"):
        pipeline(prompt_embeds=condition, num_inference_steps=0)
    with pytest.raises(ConfigError, match="size 24x15: expected sides in multiples of 4 pixels"):
        pipeline(prompt_embeds=condition, width=24, height=15)
    with pytest.raises(ConfigError, match=r"expected a condition \[N, Q, 32\], found \[1, 4, 16\]"):
        pipeline(prompt_embeds=torch.zeros(1, 4, 16))
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"unet has no config\.json"):
        StableDiffusion(folder).pipeline()(prompt_embeds=condition)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "LMSDiscreteScheduler"}))
    with pytest.raises(ConfigError, match="expected PNDMScheduler or DDIMScheduler"):
        StableDiffusion(folder)
    stable_diffusion.write_folder(tmp_path / "another", 32)
    with pytest.raises(WeightsError, match="holds 2 diffusion models, expected one: another, sd"):
        find(tmp_path)
    assert find(tmp_path / "sd" / "vae") is None
