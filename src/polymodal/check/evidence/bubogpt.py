"""BuboGPT against the official code, pictures and sounds in one row; its headline asks about both at once."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.evidence import blip_2
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message
from polymodal.systems.bubogpt import SYSTEM
from polymodal.systems.bubogpt.processing import clips_of

ASKED = "What do you see and hear?"


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding: each has one picture and one sound."""
    about, tensors = read(fixture)
    sounds = randomise.values("audio_values", json.loads(about["made"])["audio_values"])
    rows = []
    for row in (0, 1):
        ids = unpadded(tensors, row)
        seen, heard = tensors["in.pixel_values"][row : row + 1], sounds[row : row + 1]
        rows.append((row, {"input_ids": ids, "pixel_values": seen, "audio_values": heard}))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 4 queries of pictures of 56 x 56, and of sounds."""
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4}  # fmt: skip
    bound = {"audio_embed_dim": 32, "audio_num_blocks": 1, "audio_num_heads": 2, "audio_kernel_size": 32,
             "audio_stride": 32}  # fmt: skip
    return {**blip_2.small(text, vocabulary, 0), "model_type": "bubogpt", "num_query_token": 4, "imagebind": bound,
            "token_ids": {"image": vocabulary, "audio": vocabulary + 1}}  # fmt: skip


def sounds(count: int) -> list[torch.Tensor]:
    """Seconds of a recorded sentence, told apart by what is said in them."""
    samples = real.speech()
    length = len(samples) // count
    return [samples[index * length : (index + 1) * length] for index in range(count)]


@cache
def clips() -> torch.Tensor:
    """Two clips of each of eight sounds."""
    return torch.stack([clips_of(each)[[0, 6]] for each in sounds(8)])


def heard(rows: list[int]) -> dict[str, Any]:
    return {"audio_values": clips()[[row % 8 for row in rows]]}


def sound_check() -> TrainingCheck:
    """The second Q-Former alone tells a frozen, random language model which of eight sounds it hears."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [41] * 4 + [32], side=56, more=lambda rows: {**heard(rows), "pixel_values": None},
                         steps=60, batch=4)  # fmt: skip


def instruct_check() -> TrainingCheck:
    """Both linears alone, with a picture and a sound before each name."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 4 + [41] * 4 + [32], side=56, more=heard, steps=60, batch=4)


def headline() -> HeadlineResult:
    """A tiny BuboGPT in the official layout says of four pictures beside two sounds what it sees and which it hears."""
    torch.manual_seed(0)
    shown = [(pm.image(picture), name) for picture, name in real.pictures()[:4]]
    tone = 0.1 * torch.sin(torch.arange(32_000) / 6)
    spoken = [(Audio((each.numpy(), 16_000)), word) for each, word in ((real.speech(), "speech"), (tone, "a tone"))]
    asked = [(seen, heard, f"{name}, {word}") for seen, name in shown for heard, word in spoken]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>"))
        write_config(folder, config=config)
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        talks = [[Message(role="user", parts=(seen, heard, Text(ASKED))),
                  Message(role="assistant", parts=(Text(answer),))] for seen, heard, answer in asked]  # fmt: skip
        train_on_conversations(pm.load(folder), talks, writer(folder, model_spec), steps=250, lr=1e-3)
        again = pm.load(folder)
        said = [again.chat(seen, heard, ASKED, max_tokens=48).text.strip() for seen, heard, _ in asked]
    right = sum(text == answer for text, (_, _, answer) in zip(said, asked, strict=True))
    return HeadlineResult(
        ok=right == len(asked),
        evidence=f"tiny weights trained on {len(asked)} pairs of a picture and a sound: chat names the picture and "
        f"tells speech from a tone in {right} (the published parts were not at hand; the demo's masks are no "
        "part of it)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("bubogpt"),
    cases=(
        case("a picture and a sound, three clips", "bubogpt"),
        case("grouped heads, one layer, one clip", "bubogpt_grouped"),
    ),
    published=tuple(packed_size("bubogpt_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"sound": sound_check, "instruct": instruct_check},
    headline=headline,
)
