"""What the fusion study learns as a second modality: to name what a recording says, by one token.

    data file (recordings with labels) -> the first token of each label -> Whisper tiny.en's features of the real length
        -> the mean of each of PARTS equal parts, kept -> of every two neighbours, so that a recording takes as many
        positions as a picture [N, S, F] -> standardised -> a codebook by k-means -> kept

    row: the recording, " says", the first token of the label; only that token is learned

Every fifth recording of a label is held out.  Few words are one token, so a label counts by its first, which no other
label may begin with; the model would write it first.  Traps: who speaks is not known, so a voice may be on both sides;
a recording that comes twice counts once, so that none is on both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders.whisper import OPENAI_KEYS
from polymodal.errors import ConfigError, PolymodalError
from polymodal.models.speech_seq2seq import TINY_EN_WEIGHTS, WHISPER
from polymodal.study.fusion_types import Entry
from polymodal.study.naming import EVERY, Naming, coded, held_out, standardised, stored
from polymodal.systems.mini import components
from polymodal.weights.load import load_module, open_source, under

PARTS, SEGMENTS = 8, 4
PER_CODE = 32  # features that a code stands for on average, at least: few recordings fill few codes
AFTER = " says"
RATE = 16_000
Encode = Callable[[str], list[int]]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """naming: the recordings, as pictures are named.  entry: how they come.  encoder: its parameters.  repeated:
    recordings that came before and were left out."""

    naming: Naming
    entry: Entry
    encoder: int
    repeated: int


def recordings(data: Path, encode: Encode) -> tuple[list[tuple[str, Audio]], list[int], dict[int, str]]:
    """Recordings with where each is from, the first tokens of their labels, and the label of each such token.

    Raises ConfigError for a sample without a recording or a label, labels that begin alike, and too few of one.
    """
    samples = open_dataset(data)
    found, answers, labels = [], [], dict[int, str]()
    for index in range(len(samples)):
        sample = samples.sample(index)
        recording, label = spoken(sample)
        first = encode(f" {label}")[0]
        if labels.setdefault(first, label) != label:
            raise ConfigError(
                f"{data}: expected labels that differ in their first token; found {labels[first]!r} and {label!r}, "
                "which begin with the same; rename one or leave it out"
            )
        found.append((sample.name, recording))
        answers.append(first)
    enough(data, [labels[each] for each in answers])
    return found, answers, labels


def spoken(sample: Sample) -> tuple[Audio, str]:
    """The recording of a sample and its label.  Raises ConfigError for a sample without either."""
    parts = [*sample.media, *(part for message in sample.messages for part in message.parts)]
    recording = next((part for part in parts if isinstance(part, Audio)), None)
    label = next((part.text.strip() for part in reversed(parts) if isinstance(part, Text)), "")
    if recording is None or not label:
        has = ", ".join(each.modality for each in parts if not isinstance(each, Text)) or "no medium"
        raise ConfigError(
            f"{sample.name}: expected a recording and its label, found {has} and {'a' if label else 'no'} text; "
            'give {"audio": "a.wav", "text": "label"}'
        )
    return recording, label


def enough(data: Path, labels: Sequence[str]) -> None:
    """Raises ConfigError where a label has too few recordings to hold some out, or there is one label alone."""
    counts = {label: labels.count(label) for label in dict.fromkeys(labels)}
    few = [label for label, count in counts.items() if count < EVERY]
    if few or len(counts) < 2:
        what = f"{counts[few[0]]} of {few[0]!r}" if few else f"{len(counts)} label"
        raise ConfigError(
            f"{data}: expected two labels or more, {EVERY} recordings of each at least; found {what}; "
            "add recordings or leave the label out"
        )


def segments(features: Tensor, count: int) -> Tensor:
    """[S, F] -> [count, F]: the mean of each of so many equal parts, the last ones of a short recording alike."""
    edges = torch.linspace(0, len(features), count + 1)
    starts = edges[:-1].floor().long().clamp_max(len(features) - 1)
    ends = torch.maximum(edges[1:].ceil().long(), starts + 1)
    return torch.stack([features[start:end].mean(0) for start, end in zip(starts, ends, strict=True)])


def joined(features: Tensor) -> Tensor:
    """[N, PARTS, F] -> [N, SEGMENTS, F]: the means of neighbours."""
    return features.unflatten(1, (SEGMENTS, -1)).mean(2)


def heard(found: Sequence[tuple[str, Audio]], encoder: Callable[[Any], Tensor], say: Say) -> tuple[Tensor, list[int]]:
    """Features [N, PARTS, F] of the recordings, and the numbers of those that did not come before.

    encoder: samples float32 [n] at 16 kHz -> features [S, F].  Raises what reading one raises, naming the sample.
    """
    features, kept, seen = [], [], set()
    for index, (name, recording) in enumerate(found):
        say(f"hearing {index} of {len(found)} recordings")
        try:
            samples = recording.samples(RATE)
            key = hashlib.sha256(samples.tobytes()).hexdigest()
            if key in seen:
                continue
            features.append(segments(encoder(samples), PARTS))
        except PolymodalError as problem:
            raise type(problem)(f"{name}: {problem}") from problem
        seen.add(key)
        kept.append(index)
    return torch.stack(features), kept


def whisper() -> tuple[Callable[[Any], Tensor], int]:
    """Samples -> features of Whisper tiny.en without those of the padding, and the encoder's parameters."""
    config = WHISPER["tiny.en"]
    file = under(open_source(TINY_EN_WEIGHTS), "encoder.")
    model = load_module(config.encoder.build, file, (OPENAI_KEYS,), dtype=torch.float32).eval()

    @torch.inference_mode()
    def read(samples: Any) -> Tensor:
        return model.trimmed(log_mel(samples, config.mel)[None], [len(samples) / RATE])[0].clone()

    return read, sum(parameter.numel() for parameter in model.parameters())


def real_hearing(data: Path, cache: Path, codes: int, say: Say) -> Hearing:
    """Whisper tiny.en's features of the recordings of `data`; these are kept in the folder `cache`."""
    listing = open_dataset(data).manifest()["sha256"]
    tokenizer = Tokenizer.from_gguf(open_source(components.SMOLLM2_135M_GGUF).metadata)
    found, answers, labels = recordings(data, tokenizer.encode)
    key = hashlib.sha256(json.dumps([listing, PARTS]).encode()).hexdigest()[:12]

    def features() -> tuple[dict[str, Tensor], float]:
        read, size = whisper()
        x, kept = heard(found, read, say)
        return {"features": x.half(), "kept": torch.tensor(kept)}, size

    def with_codes() -> tuple[dict[str, Tensor], float]:
        known, size = stored(cache / f"heard-{key}.safetensors", features)
        x, kept = joined(known["features"].float()), known["kept"]
        some = [answers[index] for index in kept.tolist()]
        enough(data, [labels[each] for each in some])
        marks = held_out(some)
        x = standardised(x, ~marks)
        say("k-means")
        book = max(2, min(codes, int((~marks).sum()) * SEGMENTS // PER_CODE))
        ids, share = coded(x, ~marks, book)
        made = {"features": x.half(), "codes": ids[:, None], "answers": torch.tensor(some), "held_out": marks}
        return {**made, "encoder": torch.tensor(int(size)), "book": torch.tensor(book)}, share

    made, share = stored(cache / f"hearing-{key}-{SEGMENTS}-{codes}.safetensors", with_codes)
    size, book = int(made.pop("encoder")), int(made.pop("book"))
    naming = Naming(**made, names=labels, kept_variance=share, after=tuple(tokenizer.encode(AFTER)),
                    values="audio_values")  # fmt: skip
    entry = Entry(features=made["features"].shape[-1], tokens=SEGMENTS, codes=book,
                  placeholder=tokenizer.special(components.SPOKEN_PLACEHOLDER))  # fmt: skip
    return Hearing(naming=naming, entry=entry, encoder=size, repeated=len(answers) - len(naming.answers))


def tiny_hearing(codes: int = 16) -> Hearing:
    """A trial without any download: tones of four pitches in noise, by the mel bands of their parts."""
    generator = torch.Generator().manual_seed(0)
    mel = MelConfig(mels=12, seconds=None)
    ids = {0: "low", 1: "middle", 6: "high", 7: "shrill"}  # those of the tiny vocabulary that pictures leave free
    found: list[tuple[str, Audio]] = []
    answers = []
    for number, id in enumerate(ids):
        for _ in range(2 * EVERY):
            length = int(torch.randint(RATE // 4, RATE // 2, (), generator=generator))
            tone = torch.sin(torch.arange(length) * (2 * torch.pi * 300 * 2**number / RATE))
            noise = 0.1 * torch.randn(length, generator=generator)
            found.append((f"tone {len(found) + 1}", Audio(((tone + noise).numpy(), RATE))))
            answers.append(id)
    x, _ = heard(found, lambda samples: log_mel(samples, mel).T, lambda text: None)
    marks = held_out(answers)
    x = standardised(joined(x), ~marks)
    spelled, share = coded(x, ~marks, codes)
    naming = Naming(features=x.half(), codes=spelled[:, None], answers=torch.tensor(answers), held_out=marks,
                    names=ids, after=(3,), kept_variance=share, values="audio_values")  # fmt: skip
    entry = Entry(features=mel.mels, tokens=SEGMENTS, codes=codes, placeholder=5)
    return Hearing(naming=naming, entry=entry, encoder=0, repeated=0)
