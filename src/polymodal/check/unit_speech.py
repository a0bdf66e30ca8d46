"""A tiny codec of speech in units, as SpeechGPT's folder has it, made of a real recording: what hears, and what speaks.

speech2unit/  a HubertModel with fresh weights, and centroids that are its features of the recording
vocoder/      a fresh unit vocoder, whose sound is no speech
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer

from polymodal.check import real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.fixture import store
from polymodal.checkpoints.record import CheckpointFormat
from polymodal.checkpoints.unit_speech import EARS as EARS_FOLDER
from polymodal.checkpoints.unit_speech import VOICE as VOICE_FOLDER
from polymodal.data.media import Audio
from polymodal.encoders import hubert
from polymodal.generators import unit_vocoder
from polymodal.weights.export import export_tensors

UNITS = 40
SECOND = 16_000
EARS: dict[str, Any] = {"model_type": "hubert", "architectures": ["HubertModel"], "hidden_size": 32,
                        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": [16] * 7,
                        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}  # fmt: skip
VOICE: dict[str, Any] = {
    "num_embeddings": UNITS, "embedding_dim": 16, "model_in_dim": 16, "upsample_rates": [5, 4, 4, 4],
    "upsample_kernel_sizes": [11, 8, 8, 8], "upsample_initial_channel": 32, "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]], "code_hop_size": 320, "sampling_rate": 16_000,
    "dur_predictor_params": {"encoder_embed_dim": 16, "var_pred_hidden_dim": 16, "var_pred_kernel_size": 3,
                             "var_pred_dropout": 0.5},
}  # fmt: skip


@cache
def ears() -> tuple[hubert.Hubert, torch.Tensor]:
    """A fresh tiny HuBERT, and its features of the recording as centroids."""
    torch.manual_seed(0)
    encoder = hubert.parse_config(EARS).build().eval()
    with torch.no_grad():
        features = encoder(real.speech()[None])[0]
    return encoder, features[:: len(features) // UNITS][:UNITS].clone()


def write_ears(folder: Path) -> None:
    """Write them as published: config.json, model.safetensors and the clusters."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder, centroids = ears()
    write_config(folder, config=EARS)
    write_weights(folder, encoder, hubert.hf_keys(encoder.config)[0])
    np.save(folder / "L2_km40.npy", centroids.numpy())


def write_voice(folder: Path) -> unit_vocoder.UnitVocoder:
    """Write a fresh vocoder as fairseq does; its sound is loud enough to be told from silence."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vocoder = unit_vocoder.parse_config(VOICE).build().eval()
    with torch.no_grad():
        vocoder.waves.conv_out.weight.mul_(20)
    write_config(folder, config=VOICE)
    store(export_tensors(vocoder, unit_vocoder.keys(vocoder.config)), folder / "vocoder.pt", "generator")
    return vocoder


def write_model(folder: Path, format: CheckpointFormat, config: Mapping[str, Any]) -> None:
    """A language model with fresh weights in a format, and its ears and its voice beside it."""
    write_config(folder, config=config, generation_config={"eos_token_id": 2})
    spec = format.model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    write_ears(folder / EARS_FOLDER)
    write_voice(folder / VOICE_FOLDER)


def recording(index: int, seconds: float) -> Audio:
    """A piece of the recorded sentence as a user gives it."""
    return Audio((spoken_pieces(seconds)[index][0], SECOND))


def tokenizer_with_units(folder: Path, specials: list[str], marks: list[str]) -> int:
    """A tokenizer of bytes with units and marks as ordinary added tokens; its size."""
    byte_tokenizer(folder, specials, bos="<s>", eos="</s>", pad="<unk>")
    pipeline = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = [*(f"<{unit}>" for unit in range(UNITS)), *marks]
    pipeline.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    pipeline.save(str(folder / "tokenizer.json"))
    return int(pipeline.get_vocab_size(with_added_tokens=True))


def spoken_pieces(seconds: float = 1.0) -> list[tuple[np.ndarray, str]]:
    """Pieces of the recorded sentence, and the share of its words that goes with each."""
    samples, words, size = real.speech().numpy(), real.SPOKEN.split(), int(seconds * SECOND)
    count = len(samples) // size
    shares = [" ".join(words[i * len(words) // count : (i + 1) * len(words) // count]) for i in range(count)]
    return [(samples[i * size : (i + 1) * size], share) for i, share in enumerate(shares)]


@cache
def units_of_pieces(seconds: float = 1.0) -> tuple[list[int], ...]:
    """Merged units of each piece."""
    encoder, centroids = ears()
    with torch.no_grad():
        return tuple(
            hubert.merged(hubert.units_of(encoder(torch.from_numpy(samples)[None]), centroids)[0].tolist())
            for samples, _ in spoken_pieces(seconds)
        )


@cache
def frame_units(seconds: float, every: int) -> tuple[list[int], ...]:
    """Units of each piece as they come, one of `every` features."""
    encoder, centroids = ears()
    with torch.no_grad():
        return tuple(
            hubert.units_of(encoder(torch.from_numpy(samples)[None])[:, ::every], centroids)[0].tolist()
            for samples, _ in spoken_pieces(seconds)
        )
