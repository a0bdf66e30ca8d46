"""Qwen-Audio against its published code, run outside the project."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, writer
from polymodal.check.fixture import fixture_case, fixture_source, packed_size, read, unpadded
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_batch, rows
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig
from polymodal.data.messages import Message
from polymodal.systems.qwen_audio import SYSTEM
from polymodal.systems.qwen_audio.checkpoint import FIRST, LAST, LENGTHS, PAD, VALUES, Sound, collated
from polymodal.systems.qwen_audio.times import read_times, time_text

CHAT = packed_size("qwen_audio_sizes", "chat", 8_394_302_464)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", PAD, FIRST, LAST]
START = SPECIALS.index(FIRST)
RATE, PIECES, SECONDS = 16_000, 8, 0.8
QUESTION = "What is said?"


def case(name: str, fixture: str, *recordings: int) -> Case:
    """recordings: how many each row of the fixture has; the first row is generated from."""
    about, tensors = read(fixture)
    mels, lengths = randomise.values(VALUES, json.loads(about["made"])[VALUES]), tensors[f"in.{LENGTHS}"]
    found: list[tuple[int, Tensors]] = []
    first = 0
    for row, count in enumerate(recordings):
        alone: Tensors = {"input_ids": unpadded(tensors, row)}
        if count:
            alone |= {VALUES: mels[first : first + count], LENGTHS: lengths[first : first + count]}
        found.append((row, alone))
        first += count
    return fixture_case(name, fixture, alone=found, prompt=found[0][1])


def small(vocabulary: int, start: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: at most a second of sound, 25 features."""
    audio = {"n_mels": 80, "n_ctx": 50, "n_state": 32, "n_head": 2, "n_layer": 2, "output_dim": 64,
             "audio_start_id": start}  # fmt: skip
    return {"model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": vocabulary, "hidden_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 16, "intermediate_size": 256,
            "layer_norm_epsilon": 1e-5, "seq_length": 2048, "audio": audio}  # fmt: skip


def heard() -> list[tuple[Audio, str]]:
    """Pieces of the recorded sentence, each with the words at about that place of it."""
    samples, words = real.speech(RATE).numpy(), real.SPOKEN.split()
    step, share = len(samples) / PIECES, len(words) / PIECES
    return [
        (Audio((samples[int(i * step) : int(i * step) + int(SECONDS * RATE)], RATE)),
         " ".join(words[round(i * share) : round((i + 1) * share)]))
        for i in range(PIECES)
    ]  # fmt: skip


def training_check() -> TrainingCheck:
    """Pieces of speech and their words, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(36, 31)).build()
    pieces = heard()
    items = [Sound(mel=MelConfig(seconds=1.0))(recording) for recording, _ in pieces]
    count = items[0]["lengths"][1]

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 4, PIECES)
        prompt = [1, 31, *[33] * count, 32]
        return caption_batch([pieces[i][1] for i in chosen], prompt) | collated([items[i] for i in chosen])

    return TrainingCheck(model=model, batches=batches)


def headline() -> HeadlineResult:
    """A tiny Qwen-Audio is trained on pieces of real speech and asked about each by `chat`; times go both ways."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>"), START)
        write_config(folder, config=config, generation_config={"chat_format": "chatml", "eos_token_id": 0})
        spec = SYSTEM.formats[0].model_spec(config)
        write = writer(folder, spec)
        write(spec.build())
        answers = [(piece, f"{words} {time_text(SECONDS)}") for piece, words in heard()]
        talks = [[Message(role="user", parts=(piece, Text(QUESTION))), Message(role="assistant", parts=(Text(said),))]
                 for piece, said in answers]  # fmt: skip
        train_on_conversations(pm.load(folder), talks, write, steps=150)
        model = pm.load(folder)
        right = sum(model.chat(piece, QUESTION, max_tokens=64).text == said for piece, said in answers)
        times = {read_times(said)[1] for _, said in answers}
    return HeadlineResult(
        ok=right == PIECES and times == {(SECONDS,)},
        evidence=f"tiny weights trained on {PIECES} pieces of real speech: chat writes words and time of {right} "
        "(published weights are fetched from the hub by id and were not at hand)",
    )


EVIDENCE = Evidence(
    oracle=fixture_source("qwen_audio"),
    cases=(
        case("two recordings of unequal length, one, none", "qwen_audio", 2, 1, 0),
        case("three times the trained length, biases everywhere, one feature", "qwen_audio_long", 2, 1),
    ),
    published=(CHAT, replace(CHAT, variant="base")),
    training_checks={"tasks": training_check, "chat": training_check},
    headline=headline,
    exceptions=(
        "behind a recording shorter than the longest of its batch, published code lets its last feature see silence; "
        "here it is as alone",
        "keys that a conversation keeps beyond 2048 tokens have the rotary theta of their time, see qwen-vl",
        "no index of the published files was at hand: names and number are those of the official model",
    ),
)
