"""Tiny folders of Stable Diffusion in the layout of diffusers, written without it: what `draw` reads beside a system.

write_folder(folder, width) -> model_index.json, unet, vae, scheduler, text_encoder, tokenizer; random weights
learn_pictures(...)   the U-Net and the codec learn some pictures behind some conditions
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.check import randomise
from polymodal.check.demo import write_config
from polymodal.encoders import clip_text
from polymodal.generators import kl_codec, unet, unet_keys
from polymodal.generators.noise_schedule import NoiseSchedule
from polymodal.generators.unet import UNet
from polymodal.weights.export import export_safetensors

CODEC = {"block_out_channels": [32, 32], "layers_per_block": 1, "latent_channels": 4, "scaling_factor": 0.18215,
         "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}  # fmt: skip
SCHEDULER = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "num_train_timesteps": 1000, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1,
             "trained_betas": None, "clip_sample": False}  # fmt: skip
WORDS = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "c": 3, "at</w>": 4, "a": 5, "t</w>": 6}


def unet_config(width: int, linear: bool = False) -> dict[str, Any]:
    """Latents of 8 x 8, conditions `width` wide.  linear: as Stable Diffusion 2."""
    return {"block_out_channels": [16, 32], "attention_head_dim": 2, "cross_attention_dim": width,
            "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8, "use_linear_projection": linear,
            "down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2}  # fmt: skip


def text_config(width: int, length: int) -> dict[str, Any]:
    """A text encoder of one block."""
    return {"hidden_size": width, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1,
            "vocab_size": 8, "max_position_embeddings": length, "eos_token_id": 1}  # fmt: skip


def write_folder(folder: Path, width: int, *, length: int = 4, linear: bool = False) -> Path:
    """A folder of random weights.  length: of prompts in tokens, as many as the conditions have."""
    folder.mkdir()
    write_config(folder, model_index={"_class_name": "StableDiffusionPipeline"})
    parts: dict[str, Mapping[str, Any]] = {"unet": unet_config(width, linear), "vae": CODEC,
                                           "text_encoder": text_config(width, length)}  # fmt: skip
    for name, settings in parts.items():
        (folder / name).mkdir()
        write_config(folder / name, config=settings)
    (folder / "scheduler").mkdir()
    write_config(folder / "scheduler", scheduler_config=SCHEDULER)
    write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    text = clip_text.parse_config(parts["text_encoder"])
    store(folder / "text_encoder" / "model.safetensors", randomised(text.build()), clip_text.hf_keys(text))
    write_unet(folder, randomised(unet.parse_config(parts["unet"]).build()), linear)
    write_codec(folder, randomised(kl_codec.parse_config(CODEC).build()))
    return folder


def write_tokenizer(folder: Path) -> None:
    """CLIP's kind, of a few words."""
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(WORDS), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\n", encoding="utf-8")
    names = {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
             "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}  # fmt: skip
    write_config(folder, tokenizer_config=names)


def randomised(module: nn.Module) -> Any:
    """Every parameter random."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(randomise.tensor(name, tuple(parameter.shape)))
    return module


def store(path: Path, module: nn.Module, keys: Any) -> None:
    """Weights in the published names."""
    export_safetensors(module, path, keys)


def write_unet(folder: Path, module: nn.Module, linear: bool = False) -> None:
    """Into a folder that is there."""
    store(folder / "unet" / "diffusion_pytorch_model.safetensors", module, unet_keys.published_keys(linear))


def write_codec(folder: Path, module: Any) -> None:
    """Into a folder that is there."""
    keys = kl_codec.published_keys(module.config)
    store(folder / "vae" / "diffusion_pytorch_model.safetensors", module, keys)


def learn_pictures(
    folder: Path, conditions: Tensor, pixels: Tensor, *, linear: bool = False, steps: int = 200, lr: float = 3e-3
) -> UNet:
    """The folder's codec learns pictures [N, 3, 16, 16], its U-Net, which is returned, to draw each behind its
    condition [N, Q, E]."""
    torch.manual_seed(0)
    width = conditions.shape[-1]
    codec = kl_codec.parse_config({**CODEC, "scaling_factor": 1.0}).build()
    optimiser = torch.optim.AdamW(codec.parameters(), lr=lr)
    for _ in range(80):
        optimiser.zero_grad()
        F.mse_loss(codec.decode(codec.encode(pixels)), pixels).backward()
        optimiser.step()
    with torch.no_grad():
        latents = codec.encode(pixels)
        scale = float(1 / latents.std())
    write_config(folder / "vae", config={**CODEC, "scaling_factor": scale})
    write_codec(folder, codec)
    seen, schedule = unet.parse_config(unet_config(width, linear)).build(), NoiseSchedule()
    optimiser = torch.optim.AdamW(seen.parameters(), lr=lr)
    repeated, wanted = conditions.repeat(8, 1, 1), (latents * scale).repeat(8, 1, 1, 1)
    for _ in range(steps):
        optimiser.zero_grad()
        noise, times = torch.randn_like(wanted), torch.randint(schedule.trained, (len(wanted),))
        F.mse_loss(seen(schedule.noisy(wanted, noise, times), times, repeated), noise).backward()
        optimiser.step()
    write_unet(folder, seen, linear)
    return seen
