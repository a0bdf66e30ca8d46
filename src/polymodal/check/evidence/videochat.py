"""VideoChat against the official code, with videos and pictures in one row; its headline asks about films."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import real
from polymodal.check.demo import QUESTION, byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.evidence import blip_2
from polymodal.check.film import film, two_frames, zoomed
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.systems.videochat import SYSTEM


def alone(fixture: str) -> list[tuple[int, Tensors]]:
    """The fixture's rows without padding: each has one video, the last of the first fixture a picture too."""
    _, tensors = read(fixture)
    rows = []
    for row in (0, 1):
        ids = unpadded(tensors, row)
        given = {"input_ids": ids, "video_values": tensors["in.video_values"][row : row + 1]}
        if row == 1 and "in.pixel_values" in tensors:
            given["pixel_values"] = tensors["in.pixel_values"]
        rows.append((row, given))
    return rows


def case(name: str, fixture: str) -> Case:
    return fixture_case(name, fixture, alone=alone(fixture))


def small(vocabulary: int) -> dict[str, Any]:
    """A config for training checks and the demonstration: 6 queries of frames of 56 x 56."""
    text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4}  # fmt: skip
    return {**blip_2.small(text, vocabulary, 0), "model_type": "videochat", "num_query_token": 4,
            "extra_num_query_token": 2, "gmhra_layers": 1}  # fmt: skip


def training_check() -> TrainingCheck:
    """Videos of two frames, a picture and the next one, are named after the first by a frozen language model."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40)).build()
    return caption_check(model, [40] * 6 + [32], side=56, more=two_frames(real.pixels(56)), steps=60)


def headline() -> HeadlineResult:
    """A tiny VideoChat in the official layout is trained on six films of real pictures and asked about each."""
    torch.manual_seed(0)
    films = [(pm.video(film(zoomed(picture, 9))), name) for picture, name in real.pictures()[:6]]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>"))
        write_config(folder, config=config)
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        talks = [[Message(role="user", parts=(seen, Text(QUESTION))), Message(role="assistant", parts=(Text(name),))]
                 for seen, name in films]  # fmt: skip
        train_on_conversations(pm.load(folder), talks, writer(folder, model_spec), steps=200)
        again = pm.load(folder)
        right = sum(again.chat(seen, QUESTION, max_tokens=32).text.strip() == name for seen, name in films)
        still = again.chat(pm.image(real.pictures()[0][0]), QUESTION, max_tokens=8).text
    return HeadlineResult(
        ok=right == len(films) and bool(still),
        evidence=f"tiny weights trained on {len(films)} films of 9 frames: chat, told when 8 of them were taken, names "
        f"{right}; a picture is answered too (the published parts were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("videochat"),
    cases=(
        case("two global blocks, a picture beside a video", "videochat"),
        case("one global block, grouped heads, odd widths", "videochat_one_block"),
    ),
    published=tuple(packed_size("videochat_sizes", each.name, each.parameters) for each in SYSTEM.variants),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
)
