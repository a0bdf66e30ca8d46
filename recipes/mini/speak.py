"""Collect the speech data for training and testing the audio connector of `mini:hears`.

    questions, captions, sentences -> speech synthesisers -> augmentation (pitch, telephone band, noise)   train only
    recordings of people (Asterisk, Picovoice, Tux Paint, LibriVox) -> 16 kHz                     train / val / test

Writes OUT/NAME.i16.npy, all samples concatenated, and OUT/NAME.jsonl: id, corpus, split, text, hint, first sample and
length.  The part `people` is one run; the part `synthetic` can be several runs with different seeds.
Synthetic speech is only for training.  All recordings of Tux Paint and LibriVox are for testing, so their voices are
not trained on; prompts and coffee orders are split by their keys.  Whisper's transcript is the training text of
recordings without one (never a reference for testing).
Needs the programs `flite` and `espeak-ng`, and the packages hibari-tts and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from corpora import speech
from corpora.caption import phrase
from corpora.lexicon import Lexicon, read
from replies import sentences
from safetensors import safe_open
from wordings import KIND_NAMES, WAYS

import polymodal as pm
from polymodal.data.audio import read_audio
from polymodal.systems.mini.components import TRAINED

RATE = 16_000
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
ESPEAK = ("en-us", "en-gb", "en-gb-scotland", "en-us+f2", "en-us+f4", "en-us+m3", "en-gb+f3", "en-us+m7", "en-gb+m1")
VOICES = ("hibari",) * 6 + ("awb", "rms", "slt", "kal16") * 2 + ("kal16", "espeak", "espeak", "espeak", "espeak")


def texts(names: list[str], words: Lexicon, extra: list[str], count: int, rng: random.Random) -> Iterator[str]:
    """Texts to synthesise: questions in training wordings, captions, single names, dictionary sentences."""
    queue: list[str] = []
    while count:
        if len(queue) < 8:
            queue = rng.sample(names, len(names))
        kind = rng.choices(("question", "which", "caption", "name", "sentence"), (35, 10, 25, 8, 22))[0]
        name = phrase(queue.pop(), words) if kind != "sentence" else ""
        if kind == "question":
            way = rng.choice(WAYS[rng.choice(("yes_no", "yes_no", "yes_no", "what", "colour", "describe"))][0])
            yield way.format(name)
        elif kind == "which":
            some = [name, *(phrase(queue.pop(), words) for _ in range(rng.choice((1, 1, 2))))]
            if rng.random() < 0.3:
                some = rng.sample(list(KIND_NAMES.values()), len(some))
            yield rng.choice(WAYS["which"][0]).format(", ".join(some[:-1]) + " or " + some[-1])
        elif kind == "caption":
            yield rng.choice(("{}.", "{}.", "{}.", "It is {}.", "I see {}.", "This is {}.")).format(name).capitalize()
        elif kind == "name":
            yield rng.choice((f"{name.removeprefix('a ').removeprefix('an ')}.", f"{rng.choice(COLOURS)}.", "Yes.",
                              "No.", f"A {rng.choice(COLOURS)} {queue.pop()}.")).capitalize()  # fmt: skip
        else:
            yield rng.choice(extra)
        count -= 1


class Speaker:
    """Synthesises a sentence with one of the voices: float32 samples at 16 kHz."""

    def __init__(self) -> None:
        from hibari import Hibari

        self._hibari = Hibari()
        self._folder = tempfile.TemporaryDirectory()
        self._wav = str(Path(self._folder.name) / "speech.wav")

    def __call__(self, text: str, voice: str, rng: random.Random) -> np.ndarray:
        if voice == "hibari":
            samples = self._hibari(text, speed=rng.uniform(0.8, 1.3), seed=rng.randrange(1 << 30))
            return pm.audio((np.asarray(samples, np.float32), 24_000)).samples(RATE)
        if voice == "espeak":
            voice, speed, pitch = rng.choice(ESPEAK), rng.randint(120, 190), rng.randint(30, 70)
            command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", self._wav, text]
        else:
            stretch = f"duration_stretch={rng.uniform(0.85, 1.3):.2f}"
            command = ["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", self._wav]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return read_audio(self._wav, RATE)


def augmented(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Random speed (with pitch), sometimes telephone bandwidth, noise, and random volume."""
    factor = rng.uniform(0.84, 1.16)
    if rng.random() < 0.25:
        samples = resampled(resampled(samples, 2.0), 0.5)
    samples = resampled(samples, factor)
    noise = np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(samples))
    level = float(np.abs(samples).max()) + 1e-6
    samples = samples + noise * level * 10 ** rng.uniform(-4, -1.7)
    return samples * (rng.uniform(0.1, 0.9) / level)


def resampled(samples: np.ndarray, factor: float) -> np.ndarray:
    """The samples played `factor` times as fast: linear interpolation, after averaging if `factor` is 1.5 or more."""
    if factor >= 1.5:
        samples = np.convolve(samples, np.ones(2) / 2, mode="same")
    positions = np.arange(0, len(samples) - 1, factor)
    return np.interp(positions, np.arange(len(samples)), samples)


def recordings(raw: Path, prompts: Path, orders: Path) -> list[speech.Recording]:
    """All recordings of people, with their splits."""
    test = [replace(r, split="test") for r in (*speech.open_tuxpaint(raw), *speech.open_pocketsphinx(raw))]
    return [*test, *speech.open_asterisk(raw, prompts), *speech.open_picovoice(orders)]


class Store:
    """Samples and their metadata lines, written at the end."""

    def __init__(self) -> None:
        self.clips: list[np.ndarray] = []
        self.lines: list[dict] = []
        self.length = 0

    def add(self, samples: np.ndarray, **metadata: object) -> None:
        self.clips.append((np.clip(samples, -1, 1) * 32767).astype(np.int16))
        self.lines.append({**metadata, "first": self.length, "length": len(samples)})
        self.length += len(samples)

    def write(self, folder: Path, part: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{part}.i16.npy", np.concatenate(self.clips))
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))


def people(args: argparse.Namespace, store: Store) -> None:
    model = pm.load("mini")
    for item in recordings(args.raw, args.prompts, args.orders):
        samples = read_audio(item.path, RATE)
        if not 0.2 * RATE < len(samples) <= 28 * RATE:
            continue
        text = item.text
        if text is None and item.split == "train":
            text = model.transcribe(pm.audio((samples, RATE))).text
        store.add(samples, id=item.id, corpus=item.corpus, split=item.split, text=text, hint=item.hint)
        if len(store.lines) % 100 == 0:
            print(f"{len(store.lines)} recordings, {store.length / RATE / 60:.0f} min", flush=True)


def synthetic(args: argparse.Namespace, store: Store) -> None:
    rng = random.Random(args.seed)
    with safe_open(TRAINED.name, "pt") as file:
        names = [n for n in json.loads(file.metadata()["names"]) if re.fullmatch(r"[A-Za-z' -]+", n)]
    speaker = Speaker()
    for index, text in enumerate(texts(names, read(args.raw), sentences(args.wordnet), args.count, rng)):
        voice = rng.choice(VOICES)
        samples = augmented(speaker(text, voice, rng), rng)
        if len(samples) < 15 * RATE:
            store.add(samples, id=f"synthetic/{args.seed}/{index}", corpus=voice, split="train", text=text, hint="")
        if index % 500 == 0:
            print(f"{index}/{args.count}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("people", "synthetic"))
    parser.add_argument("--raw", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--prompts", type=Path, help="people: core-sounds-en.txt, the texts of Asterisk's prompts")
    parser.add_argument("--orders", type=Path, help="people: a copy of Picovoice/speech-to-intent-benchmark")
    parser.add_argument("--wordnet", type=Path, help="synthetic: WordNet's folder")
    parser.add_argument("--count", type=int, default=7000, help="synthetic: utterances")
    parser.add_argument("--seed", type=int, default=0, help="synthetic")
    parser.add_argument("--name", help="of the files; default: the part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    store = Store()
    (people if args.part == "people" else synthetic)(args, store)
    store.write(args.out, args.name or args.part)


if __name__ == "__main__":
    main()
