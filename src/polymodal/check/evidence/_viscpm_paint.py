"""VisCPM-Paint at tiny size: a codec and a U-Net that learn two pictures, wished for in English and in Chinese."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import write_config, write_layout
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.check.training import learned
from polymodal.generators import kl_codec
from polymodal.generators.kl_codec import KLCodec
from polymodal.models.latent_diffusion import LatentDiffusion
from polymodal.systems.viscpm import SYSTEM, paint
from polymodal.systems.viscpm.processor import wish
from polymodal.train.objectives import Denoising
from polymodal.weights.export import export_tensors

WISHES = (("foggy", "\u96fe"), ("closed umbrella", "\u96e8\u4f1e"))  # of the first two pictures
CODEC = {"block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 4,
         "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}  # fmt: skip
UNET = {"block_out_channels": [16, 32], "attention_head_dim": 2, "cross_attention_dim": 32, "layers_per_block": 1,
        "norm_num_groups": 8, "sample_size": 8, "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2}  # fmt: skip
SIDE = 16


def config_of(backbone: dict[str, Any]) -> dict[str, Any]:
    """The config of a tiny VisCPM-Paint on such a CPM-Bee."""
    kept = {name: value for name, value in backbone.items() if name not in ("query_num", "vision")}
    return {**kept, "model_type": paint.PAINT, "unet": UNET}


def fresh(config: dict[str, Any]) -> LatentDiffusion:
    torch.manual_seed(0)
    model = SYSTEM.formats[1].model_spec(config).build()
    assert isinstance(model, LatentDiffusion)
    # Fresh words are too small for a frozen model to tell one from another.
    torch.nn.init.normal_(model.backbone.embed_tokens.weight)
    return model


def training_check(config: dict[str, Any]) -> TrainingCheck:
    """Eight real pictures, as small as latents, each behind a wish of one letter."""
    pixels = real.pixels(8, count=8)
    latents = torch.cat((pixels, pixels.mean(1, keepdim=True)), 1)
    ids = torch.tensor([[6, 8, 7, 6, 10, 7, 6, 11 + number, 7] for number in range(8)])
    return TrainingCheck(model=fresh(config), batches=lambda step: {"input_ids": ids, "latents": latents}, steps=40)


def codec_for(pixels: Tensor) -> tuple[KLCodec, dict[str, Any]]:
    """A codec that learned these pictures, and its config, whose scale makes the deviation of latents 1."""
    torch.manual_seed(0)
    codec = kl_codec.parse_config({**CODEC, "scaling_factor": 1.0}).build()
    optimiser = torch.optim.AdamW(codec.parameters(), lr=3e-3)
    for _ in range(80):
        optimiser.zero_grad()
        F.mse_loss(codec.decode(codec.encode(pixels)), pixels).backward()
        optimiser.step()
    with torch.no_grad():
        return codec, {**CODEC, "scaling_factor": float(1 / codec.encode(pixels).std())}


def learn(model: Any, texts: Sequence[str], latents: Tensor, steps: int) -> None:
    """The words' bridge and the U-Net learn latents behind texts."""
    rows = [model.processor.encode(wish(text)) for text in texts]
    batch = {**model.processor.collate(rows, padding="right"), "latents": latents}
    lesson = TrainingCheck(model=model.module, batches=lambda step: batch, steps=steps)
    learned(lesson, Denoising(), train=("connectors", "generators"))


def write_folder(folder: Path, config: dict[str, Any], codec: KLCodec, settings: dict[str, Any]) -> None:
    """What an author would publish: fresh weights, and the codec beside them."""
    from safetensors.torch import save_file

    write_config(folder, config=config)
    (folder / "vae").mkdir()
    write_config(folder / "vae", config=settings)
    weights = export_tensors(codec, kl_codec.published_keys(codec.config))
    save_file({name: value.contiguous() for name, value in weights.items()},
              folder / "vae" / "diffusion_pytorch_model.safetensors")  # fmt: skip
    format = SYSTEM.formats[1]
    write_layout(folder / "viscpm_paint.pt", fresh(config), format, format.model_spec(config))


def headline(vocabulary: Any, small: Any, steps: int = 150) -> HeadlineResult:
    """Draws each wish by `draw`: is the picture nearer to the one it stands for than to the other?

    vocabulary(folder) writes one and gives its size; small(size) -> CPM-Bee's config.
    """
    torch.manual_seed(0)
    pixels = real.pixels(SIDE, count=len(WISHES))
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = config_of(small(vocabulary(folder)))
        codec, settings = codec_for(pixels)
        write_folder(folder, config, codec, settings)
        with torch.no_grad():
            latents = codec.encode(pixels) * settings["scaling_factor"]
        texts = [text for both in WISHES for text in (*both, "")]
        model = pm.load(folder)
        learn(model, texts * 3, latents.repeat_interleave(3, 0).repeat(3, 1, 1, 1), steps)
        format = SYSTEM.formats[1]
        write_layout(folder / "viscpm_paint.pt", model.module, format, format.model_spec(config))
        again, right = pm.load(folder), 0
        for number, both in enumerate(WISHES):
            for text in both:
                drawn = np.asarray(again.draw(text, seed=0).media["image"][0])
                seen = torch.from_numpy(drawn.copy()).movedim(-1, 0) / 127.5 - 1
                right += int((pixels - seen).abs().mean((1, 2, 3)).argmin()) == number
    count = sum(len(both) for both in WISHES)
    return HeadlineResult(
        ok=right == count,
        evidence=f"tiny weights trained on 2 pictures, wished for in English and in Chinese: draw gives {right} of "
        f"{count} (published weights are fetched from the hub by id and were not at hand)",
    )
