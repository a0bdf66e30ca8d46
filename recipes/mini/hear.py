"""Train the audio connector of `mini:hears`: Whisper's encoder -> tokens of SmolLM2, without Whisper's decoder.

    sounds -> Whisper tiny.en encoder, frozen, once -> PART.f16.npy (50 a second)
    features -> connector -> CTC on the tokens of the text as it would be typed, and, after its early blocks, on letters
    class keys = spelling of each token (letters by place, pairs of letters) through one matrix + a remainder of its own

Training utterances are encoded many to a window of 30 s, with pauses between; recordings of `val` and `test` alone in
theirs, as they will be heard.  Most tokens occur once or twice, so their keys are mostly made of their spelling.
Neither SmolLM2 nor Whisper's decoder runs in training; the letters' head is not
shipped.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from corpora.record import normalise
from replies import backbone
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymodal.connectors.ctc import CTCConnector, CTCConnectorConfig, halved
from polymodal.data.mel import log_mel
from polymodal.data.tokenizer import Tokenizer
from polymodal.evaluate.metrics import word_errors
from polymodal.models.output import Output
from polymodal.models.speech_seq2seq import OPENAI_KEYS, WHISPER, WhisperEncoder
from polymodal.systems.mini.recipe import HEAR
from polymodal.train.loop import run_stage
from polymodal.weights.export import save_safetensors
from polymodal.weights.load import load_into
from polymodal.weights.packed import pack
from polymodal.weights.read import read_torch

RATE, HOP, WIDTH, WINDOW = 16_000, 320, 384, 30  # samples, samples a feature, Whisper tiny's width, seconds
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
PAUSE = 0.4  # seconds at most around an utterance
REAL = 6  # every such batch is of people
FRAMES = 5000  # of a batch, padding included


def encode(folder: Path, whisper: Path, part: str) -> None:
    """PART.f16.npy [frames, 384] and PART.places.json: id -> (first frame, frames), of all that is used."""
    config = WHISPER["tiny.en"]
    model = config.build()
    load_into(model, read_torch(whisper, "model_state_dict"), OPENAI_KEYS, dtype=torch.float32)
    encoder = model.audio.eval()
    lines = [json.loads(line) for line in (folder / f"{part}.jsonl").open()]
    sounds = np.load(folder / f"{part}.i16.npy", mmap_mode="r")
    packed = [line for line in lines if line["split"] == "train"]
    random.Random(0).shuffle(packed)
    windows = [[line] for line in lines if line["split"] == "val" and line["text"]] + windows_of(packed)
    places: dict[str, tuple[int, int]] = {}
    found: list[np.ndarray] = []
    total = 0
    rng = random.Random(1)
    for number, window in enumerate(windows):
        samples, spans = prepare_inputs(window, sounds, rng if len(window) > 1 else None)
        with torch.autocast("cpu", torch.bfloat16, enabled=len(window) > 1):
            features = encoded(encoder, samples)
        for line, (first, frames) in zip(window, spans, strict=True):
            found.append(features[first : first + frames].half().numpy())
            places[line["id"]] = (total, len(found[-1]))
            total += len(found[-1])
        if number % 50 == 0:
            print(f"{part}: {number}/{len(windows)} windows", flush=True)
    np.save(folder / f"{part}.f16.npy", np.concatenate(found))
    (folder / f"{part}.places.json").write_text(json.dumps(places))


def windows_of(lines: list[dict]) -> list[list[dict]]:
    """Utterances in groups that fit in a window with a pause after each."""
    groups: list[list[dict]] = [[]]
    used = 0.0
    for line in lines:
        seconds = line["length"] / RATE + PAUSE
        if used + seconds > WINDOW - 0.5 and groups[-1]:
            groups.append([])
            used = 0.0
        groups[-1].append(line)
        used += seconds
    return groups


def prepare_inputs(
    window: list[dict], sounds: np.ndarray, rng: random.Random | None
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The samples of a window and each utterance's (first feature, features)."""
    samples = np.zeros(WINDOW * RATE, np.float32)
    spans, place = [], 0
    for line in window:
        if rng is not None:
            place += rng.randrange(0, int(0.5 * PAUSE * RATE))
        place -= place % HOP
        length = min(line["length"], len(samples) - place)
        samples[place : place + length] = sounds[line["first"] : line["first"] + length] / 32768
        spans.append((place // HOP, -(-length // HOP)))
        place += length + (int(0.5 * PAUSE * RATE) if rng is not None else 0)
    return samples, spans


@torch.inference_mode()
def encoded(encoder: WhisperEncoder, samples: np.ndarray) -> Tensor:
    """Samples of one window -> features [1500, 384]."""
    return encoder(log_mel(torch.from_numpy(samples))[None])[0]


class Learner(nn.Module):
    """The connector, and the head on letters that only training needs."""

    def __init__(self, connector: CTCConnector):
        super().__init__()
        self.connector = connector
        self.letters = nn.Linear(connector.config.width, len(LETTERS) + 1)

    def forward(self, features: Tensor, lengths: Tensor) -> Output:
        """predictions: logits of `tokens` and of `letters`, and the lengths of both."""
        with torch.autocast("cpu", torch.bfloat16):
            frames = self.connector.frames(features, lengths)
            letters = self.letters(frames)
            tokens = self.connector.logits(frames, lengths)
        return Output(predictions={"tokens": tokens, "tokens_lengths": halved(lengths), "letters": letters,
                                   "letters_lengths": lengths})  # fmt: skip


class Spelled(nn.Module):
    """Keys of the classes: a remainder [V + 1, K] plus what their spellings give; the blank has no spelling."""

    features: Tensor

    def __init__(self, spellings: Tensor, width: int):
        super().__init__()
        self.register_buffer("features", spellings)
        self.matrix = nn.Parameter(torch.randn(spellings.shape[1], width) * width**-0.5)

    def forward(self, remainder: Tensor) -> Tensor:
        return remainder + self.features @ self.matrix


def spellings(tokens: list[str]) -> Tensor:
    """[V + 1, F], rows of length 1 (0 for the blank): letters by place from either end, pairs, case."""

    def parts(token: str) -> list[str]:
        marked = "^" + token.lower() + "$"
        first = [f"{c}{i}" for i, c in enumerate(token.lower()[:8])]
        last = [f"{c}-{i}" for i, c in enumerate(token.lower()[::-1][:8])]
        case = "upper" if token.strip()[:1].isupper() else "lower"
        return [*first, *last, *(a + b for a, b in pairwise(marked)), case]

    counts = Counter(p for token in tokens for p in set(parts(token)))
    columns = {p: i for i, p in enumerate(sorted(p for p, n in counts.items() if n > 1))}
    table = torch.zeros(len(tokens) + 1, len(columns))
    for row, token in enumerate(tokens):
        for part in parts(token):
            if part in columns:
                table[row, columns[part]] = 1
    return F.normalize(table, dim=-1)


class Sounds:
    """Training batches: features, lengths, tokens and letters of each."""

    def __init__(self, folder: Path, lines: list[dict], tokenizer: Tokenizer, classes: dict[int, int]):
        parts = sorted({line["part"] for line in lines})
        self._features = {part: np.load(folder / f"{part}.f16.npy", mmap_mode="r") for part in parts}
        self._places = {part: json.loads((folder / f"{part}.places.json").read_text()) for part in parts}
        self.lines = [line for line in lines if self.fits(line, tokenizer, classes)]
        self.real = [i for i, line in enumerate(self.lines) if not line["id"].startswith("synthetic")]
        self.made = [i for i, line in enumerate(self.lines) if line["id"].startswith("synthetic")]
        for pool in (self.real, self.made):
            pool.sort(key=lambda i: self.frames(self.lines[i]))

    def fits(self, line: dict, tokenizer: Tokenizer, classes: dict[int, int]) -> bool:
        """Adds its targets; False where it may not be trained on, has unknown tokens or is said too fast for CTC."""
        if line["split"] != "train" or not line["text"]:
            return False
        ids = [classes.get(i, -1) for i in tokenizer.encode(line["text"])]
        frames = self.frames(line)
        line["tokens"], line["letters"] = ids, [LETTERS.index(c) for c in spelled(line["text"])]
        need = len(ids) + sum(a == b for a, b in pairwise(ids))
        fast = len(line["letters"]) + 4 > frames
        return bool(ids) and min(ids) >= 0 and need + 1 <= frames // 2 and not fast and frames < 700

    def frames(self, line: dict) -> int:
        return self._places[line["part"]][line["id"]][1]

    def item(self, line: dict) -> Tensor:
        """Features [S, 384]."""
        first, frames = self._places[line["part"]][line["id"]]
        return torch.from_numpy(np.array(self._features[line["part"]][first : first + frames])).float()

    def batch(self, step: int, generator: torch.Generator) -> dict:
        """Utterances of like length, `FRAMES` in all; every REAL-th batch is of people.  Some is blanked at random."""
        pool = self.real if step % REAL == REAL - 1 else self.made
        last = int(torch.randint(len(pool), (), generator=generator))
        longest = self.frames(self.lines[pool[last]])
        size = max(1, min(FRAMES // longest, last + 1))
        near = pool[max(0, last + 1 - 4 * size) : last + 1]
        chosen = [near[int(i)] for i in torch.randperm(len(near), generator=generator)[:size]]
        items = [blanked(self.item(self.lines[i]), generator) for i in chosen]
        lengths = torch.tensor([len(item) for item in items])
        targets = {name: [self.lines[i][name] for i in chosen] for name in ("tokens", "letters")}
        return {"features": nn.utils.rnn.pad_sequence(items, batch_first=True), "lengths": lengths, "targets": targets}


def spelled(text: str) -> str:
    return " ".join("".join(c if c in LETTERS else " " for c in text.lower()).split())


def blanked(item: Tensor, generator: torch.Generator) -> Tensor:
    """One stretch of at most 10 frames and a run of at most 40 channels set to the item's mean."""
    mean = item.mean(0)
    start, size = (int(torch.randint(n, (), generator=generator)) for n in (len(item), 10))
    item[start : start + size] = mean
    start, size = (int(torch.randint(n, (), generator=generator)) for n in (WIDTH, 40))
    item[:, start : start + size] = mean[start : start + size]
    return item


@torch.inference_mode()
def load_audio(connector: CTCConnector, tokenizer: Tokenizer, features: Tensor) -> str:
    """What is heard in features [S, 384], as text."""
    (chances,) = connector.decode(features[None], torch.tensor([len(features)]))
    return tokenizer.decode(connector.token_ids[chances.argmax(-1)].tolist()) if len(chances) else ""


def check(learner: Learner, tokenizer: Tokenizer, data: Sounds, lines: list[dict]) -> str:
    """Word error rate on recordings of `val` with true texts, and two samples."""
    learner.eval()
    said = [load_audio(learner.connector, tokenizer, data.item(line)) for line in lines]
    learner.train()
    pairs = [(normalise(line["text"]), normalise(s)) for line, s in zip(lines, said, strict=True)]
    errors = [word_errors(a, b) for a, b in pairs]
    return f"val {sum(e for e, _ in errors) / sum(n for _, n in errors):.3f} {pairs[:4]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that speak.py wrote")
    parser.add_argument("--parts", nargs="+", default=["people", "synthetic"], help="files of speak.py, by name")
    parser.add_argument("--encode-only", action="store_true", help="stop when the features are there")
    parser.add_argument("--whisper", type=Path, required=True, help="tiny.en.pt")
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--ship", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for part in args.parts:
        if not (args.data / f"{part}.places.json").exists():
            encode(args.data, args.whisper, part)
    if args.encode_only:
        return
    lines = [{**json.loads(line), "part": part} for part in args.parts for line in (args.data / f"{part}.jsonl").open()]
    _, tokenizer = backbone(args.language_model)
    texts = [line["text"] for line in lines if line["split"] == "train" and line["text"]]
    found = Counter(i for text in texts for i in tokenizer.encode(text))
    kept = sorted(i for i, n in found.items() if n > 1)
    torch.manual_seed(0)
    connector = CTCConnectorConfig(vocab_size=len(kept)).build(WIDTH, 576)
    connector.token_ids.copy_(torch.tensor(kept))
    nn.init.zeros_(connector.classes.weight)
    spelled_keys = Spelled(spellings([tokenizer.decode([i]) for i in kept]), connector.config.key_width)
    parametrize.register_parametrization(connector.classes, "weight", spelled_keys)
    learner = Learner(connector)
    data = Sounds(args.data, lines, tokenizer, {i: n for n, i in enumerate(kept)})
    val = [line for line in lines if line["split"] == "val" and line["text"]]
    print(f"{len(data.made)} synthetic, {len(data.real)} recordings, {len(kept)} classes", flush=True)
    stage = replace(
        HEAR,
        train=("connector", "letters"),
        optimizer=replace(HEAR.optimizer, lr=args.lr),
        budget=replace(HEAR.budget, steps=args.steps),
    )

    def report(step: int, line: dict[str, float]) -> None:
        if step % 10 == 0:
            print(step, {k: round(v, 4) for k, v in line.items()}, flush=True)
        if step % 100 == 99:
            print(step, check(learner, tokenizer, data, val), flush=True)

    run_stage(learner, stage, data.batch, args.out, 100, report, seed=3)
    print(check(learner.eval(), tokenizer, data, val))
    parametrize.remove_parametrizations(connector.classes, "weight")
    matrices = {f"{n}.weight" for n, m in connector.named_modules() if isinstance(m, nn.Linear)}
    save_safetensors(pack(connector.state_dict(), matrices), args.ship)
    print(f"{args.ship}: {args.ship.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
