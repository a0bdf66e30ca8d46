"""Video-LLaMA against the official code, with and without the branch for sound."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence import blip_2
from polymodal.check.film import two_frames
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data import imagebind_inputs
from polymodal.systems.video_llama import SYSTEM


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding; each has one video, and one sound where there are sounds."""
    _, tensors = read(fixture)
    rows = []
    for row in (0, 1):
        ids = unpadded(tensors, row)
        media = {name[3:]: x[row : row + 1] for name, x in tensors.items() if name.endswith("_values")}
        rows.append((row, {"input_ids": ids, **media}))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries of a video of 56 x 56, 2 of a sound."""
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4}  # fmt: skip
    parts = ("vision", "text", "audio", "depth", "thermal", "imu")
    bound = {f"{part}_{kind}": value for part in parts
             for kind, value in (("embed_dim", 32), ("num_blocks", 1), ("num_heads", 2))}  # fmt: skip
    return {
        **blip_2.small(text, vocabulary, 0), "model_type": "video-llama", "num_query_token": 4,
        "num_video_query_token": 4, "num_audio_query_token": 2, "imagebind": {**bound, "out_embed_dim": 32},
        "token_ids": {"video": vocabulary, "audio": vocabulary + 1, "image": vocabulary + 2},
    }  # fmt: skip


def seen() -> TrainingCheck:
    """Videos of two frames, a picture and the next one, are named after the first."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 4 + [32], side=56, more=two_frames(real.pixels(56)), steps=100)


def heard() -> TrainingCheck:
    """Two clips of a recorded sentence beside each name: the sound tells which."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    clips = imagebind_inputs.audio_clips(real.speech(), clips=8)

    def sounds(rows: list[int]) -> dict[str, Any]:
        return {"audio_values": torch.stack([clips[[row % 8, (row // 8) % 8]] for row in rows]), "pixel_values": None}

    return caption_check(model, [41] * 2 + [32], side=56, more=sounds, steps=60, batch=4)


def headline() -> HeadlineResult:
    """A tiny Video-LLaMA in the official layout names eight real pictures by `chat`, with sound in the same model."""
    torch.manual_seed(4)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        config = small(size)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=400)
        model = pm.load(folder)
        film, sound = (
            randomise.values("film", (1, 3, 3, 56, 56)),
            imagebind_inputs.audio_clips(real.speech(), clips=8)[None],
        )
        ids = torch.tensor([[1, *[size + 1] * 2, 9, *[size] * 4, 10]])
        both = model.logits(input_ids=ids, video_values=film, audio_values=sound)
        other = model.logits(input_ids=ids, video_values=film, audio_values=sound.flip(1))
        moved = float((both - other)[:, -1].abs().max())
    return HeadlineResult(
        ok=right == 8 and moved > 0,
        evidence=f"tiny weights trained on 8 pictures as one-frame videos: chat "
        f"names {right}; what is heard beside a video moves the answer's logits by {moved:.1e}",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("video_llama"),
    cases=(
        case("video and sound", "video_llama"),
        case("video alone", "video_llama_silent"),
    ),
    published=tuple(packed_size("video_llama_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={
        "vision pretrain": seen,
        "vision instruct": seen,
        "audio pretrain": heard,
        "audio instruct": heard,
    },
    headline=headline,
)
