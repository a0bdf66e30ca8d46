"""Train the audio connector of `mini:hears`: Whisper's encoder -> tokens of SmolLM2, without Whisper's decoder.

    audio -> Whisper tiny.en encoder, frozen, once -> PART.f16.npy (50 features per second)
    features -> connector -> CTC over the tokens of the written text, and, after the early blocks, CTC over letters
    class keys = spelling features of each token (letters by position, letter pairs) x a shared matrix + a residual

Training utterances are packed into 30 s windows with pauses between them; recordings of `val` and `test` are encoded
one per window, as at inference.  Most tokens occur once or twice, so their keys depend mostly on their spelling.
Training runs neither SmolLM2 nor Whisper's decoder; the letter head is not released.
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
from replies import backbone
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymodal.connectors.ctc import CTCConnector, CTCConnectorConfig, halved
from polymodal.data.mel import log_mel
from polymodal.data.sets.split import normalise
from polymodal.data.tokenizer import Tokenizer
from polymodal.evaluate.metrics import word_errors
from polymodal.models.output import Output
from polymodal.models.speech_seq2seq import OPENAI_KEYS, WHISPER, WhisperEncoder
from polymodal.systems.mini.recipe import HEAR
from polymodal.train.loop import LoopOptions, run_stage
from polymodal.weights.export import save_safetensors
from polymodal.weights.load import load_into
from polymodal.weights.packed import pack
from polymodal.weights.read import read_torch

RATE, HOP, WIDTH, WINDOW = 16_000, 320, 384, 30  # samples/s, samples per feature, width of Whisper tiny, seconds
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
PAUSE = 0.4  # maximum pause around an utterance, seconds
REAL = 6  # every n-th batch has recordings of people
FRAMES = 5000  # frames per batch, padding included


def encode(folder: Path, whisper: Path, part: str) -> None:
    """Write PART.f16.npy [frames, 384] and PART.spans.json: id -> (first frame, frames)."""
    config = WHISPER["tiny.en"]
    model = config.build()
    load_into(model, read_torch(whisper, "model_state_dict"), OPENAI_KEYS, dtype=torch.float32)
    encoder = model.audio.eval()
    lines = [json.loads(line) for line in (folder / f"{part}.jsonl").open()]
    sounds = np.load(folder / f"{part}.i16.npy", mmap_mode="r")
    packed = [line for line in lines if line["split"] == "train"]
    random.Random(0).shuffle(packed)
    windows = [[line] for line in lines if line["split"] == "val" and line["text"]] + windows_of(packed)
    spans_by_id: dict[str, tuple[int, int]] = {}
    stored: list[np.ndarray] = []
    total = 0
    rng = random.Random(1)
    for number, window in enumerate(windows):
        samples, spans = fill_window(window, sounds, rng if len(window) > 1 else None)
        with torch.autocast("cpu", torch.bfloat16, enabled=len(window) > 1):
            features = encoded(encoder, samples)
        for line, (first, frames) in zip(window, spans, strict=True):
            stored.append(features[first : first + frames].half().numpy())
            spans_by_id[line["id"]] = (total, len(stored[-1]))
            total += len(stored[-1])
        if number % 50 == 0:
            print(f"{part}: {number}/{len(windows)} windows", flush=True)
    np.save(folder / f"{part}.f16.npy", np.concatenate(stored))
    (folder / f"{part}.spans.json").write_text(json.dumps(spans_by_id))


def windows_of(lines: list[dict]) -> list[list[dict]]:
    """Groups of utterances that fit into one window with a pause after each."""
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


def fill_window(
    window: list[dict], sounds: np.ndarray, rng: random.Random | None
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The samples of a window, and (first feature, number of features) of each utterance."""
    samples = np.zeros(WINDOW * RATE, np.float32)
    spans, start = [], 0
    for line in window:
        if rng is not None:
            start += rng.randrange(0, int(0.5 * PAUSE * RATE))
        start -= start % HOP
        length = min(line["length"], len(samples) - start)
        samples[start : start + length] = sounds[line["first"] : line["first"] + length] / 32768
        spans.append((start // HOP, -(-length // HOP)))
        start += length + (int(0.5 * PAUSE * RATE) if rng is not None else 0)
    return samples, spans


@torch.inference_mode()
def encoded(encoder: WhisperEncoder, samples: np.ndarray) -> Tensor:
    """Samples of one window -> features [1500, 384]."""
    return encoder(log_mel(torch.from_numpy(samples))[None])[0]


class Learner(nn.Module):
    """The connector, and the letter head that is used only in training."""

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


class SpellingKeys(nn.Module):
    """Class keys: a residual [V + 1, K] plus projected spelling features; the blank has no spelling."""

    features: Tensor

    def __init__(self, spellings: Tensor, width: int):
        super().__init__()
        self.register_buffer("features", spellings)
        self.matrix = nn.Parameter(torch.randn(spellings.shape[1], width) * width**-0.5)

    def forward(self, residual: Tensor) -> Tensor:
        return residual + self.features @ self.matrix


def spellings(tokens: list[str]) -> Tensor:
    """Spelling features [V + 1, F], unit rows (0 for the blank): letters by position from either end, pairs, case."""

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


class SpeechData:
    """Training batches: features, lengths, token ids and letter ids."""

    def __init__(self, folder: Path, lines: list[dict], tokenizer: Tokenizer, classes: dict[int, int]):
        parts = sorted({line["part"] for line in lines})
        self._features = {part: np.load(folder / f"{part}.f16.npy", mmap_mode="r") for part in parts}
        self._spans = {part: json.loads((folder / f"{part}.spans.json").read_text()) for part in parts}
        self.lines = [line for line in lines if self.fits(line, tokenizer, classes)]
        self.real = [i for i, line in enumerate(self.lines) if not line["id"].startswith("synthetic")]
        self.synthetic = [i for i, line in enumerate(self.lines) if line["id"].startswith("synthetic")]
        for pool in (self.real, self.synthetic):
            pool.sort(key=lambda i: self.frames(self.lines[i]))

    def fits(self, line: dict, tokenizer: Tokenizer, classes: dict[int, int]) -> bool:
        """Add the targets of `line`; False if it is not for training, has unknown tokens or is too fast for CTC."""
        if line["split"] != "train" or not line["text"]:
            return False
        ids = [classes.get(i, -1) for i in tokenizer.encode(line["text"])]
        frames = self.frames(line)
        line["tokens"], line["letters"] = ids, [LETTERS.index(c) for c in letters_of(line["text"])]
        need = len(ids) + sum(a == b for a, b in pairwise(ids))
        fast = len(line["letters"]) + 4 > frames
        return bool(ids) and min(ids) >= 0 and need + 1 <= frames // 2 and not fast and frames < 700

    def frames(self, line: dict) -> int:
        return self._spans[line["part"]][line["id"]][1]

    def item(self, line: dict) -> Tensor:
        """Features [S, 384]."""
        first, frames = self._spans[line["part"]][line["id"]]
        return torch.from_numpy(np.array(self._features[line["part"]][first : first + frames])).float()

    def batch(self, step: int, generator: torch.Generator) -> dict:
        """Utterances of similar length, `FRAMES` in total; every REAL-th batch has recordings of people.

        Parts of the features are masked at random.
        """
        pool = self.real if step % REAL == REAL - 1 else self.synthetic
        last = int(torch.randint(len(pool), (), generator=generator))
        longest = self.frames(self.lines[pool[last]])
        size = max(1, min(FRAMES // longest, last + 1))
        near = pool[max(0, last + 1 - 4 * size) : last + 1]
        selected = [near[int(i)] for i in torch.randperm(len(near), generator=generator)[:size]]
        items = [masked(self.item(self.lines[i]), generator) for i in selected]
        lengths = torch.tensor([len(item) for item in items])
        targets = {name: [self.lines[i][name] for i in selected] for name in ("tokens", "letters")}
        return {"features": nn.utils.rnn.pad_sequence(items, batch_first=True), "lengths": lengths, "targets": targets}


def letters_of(text: str) -> str:
    """`text` in lower case, with letters, apostrophes and single spaces only."""
    return " ".join("".join(c if c in LETTERS else " " for c in text.lower()).split())


def masked(item: Tensor, generator: torch.Generator) -> Tensor:
    """SpecAugment: set up to 10 consecutive frames and up to 40 consecutive channels to the mean, in place."""
    mean = item.mean(0)
    start, size = (int(torch.randint(n, (), generator=generator)) for n in (len(item), 10))
    item[start : start + size] = mean
    start, size = (int(torch.randint(n, (), generator=generator)) for n in (WIDTH, 40))
    item[:, start : start + size] = mean[start : start + size]
    return item


@torch.inference_mode()
def transcribe(connector: CTCConnector, tokenizer: Tokenizer, features: Tensor) -> str:
    """The text recognised in features [S, 384]."""
    (probs,) = connector.decode(features[None], torch.tensor([len(features)]))
    return tokenizer.decode(connector.token_ids[probs.argmax(-1)].tolist()) if len(probs) else ""


def check(learner: Learner, tokenizer: Tokenizer, data: SpeechData, lines: list[dict]) -> str:
    """Word error rate on `val` recordings that have transcripts, and a few samples."""
    learner.eval()
    transcripts = [transcribe(learner.connector, tokenizer, data.item(line)) for line in lines]
    learner.train()
    pairs = [(normalise(line["text"]), normalise(text)) for line, text in zip(lines, transcripts, strict=True)]
    errors = [word_errors(a, b) for a, b in pairs]
    return f"val {sum(e for e, _ in errors) / sum(n for _, n in errors):.3f} {pairs[:4]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output folder of speak.py")
    parser.add_argument("--parts", nargs="+", default=["people", "synthetic"], help="parts written by speak.py")
    parser.add_argument("--encode-only", action="store_true", help="stop after encoding the features")
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
        if not (args.data / f"{part}.spans.json").exists():
            encode(args.data, args.whisper, part)
    if args.encode_only:
        return
    lines = [{**json.loads(line), "part": part} for part in args.parts for line in (args.data / f"{part}.jsonl").open()]
    _, tokenizer = backbone(args.language_model)
    texts = [line["text"] for line in lines if line["split"] == "train" and line["text"]]
    counts = Counter(i for text in texts for i in tokenizer.encode(text))
    kept = sorted(i for i, n in counts.items() if n > 1)
    torch.manual_seed(0)
    connector = CTCConnectorConfig(vocab_size=len(kept)).build(WIDTH, 576)
    connector.token_ids.copy_(torch.tensor(kept))
    nn.init.zeros_(connector.classes.weight)
    spelling_keys = SpellingKeys(spellings([tokenizer.decode([i]) for i in kept]), connector.config.key_width)
    parametrize.register_parametrization(connector.classes, "weight", spelling_keys)
    learner = Learner(connector)
    data = SpeechData(args.data, lines, tokenizer, {i: n for n, i in enumerate(kept)})
    val = [line for line in lines if line["split"] == "val" and line["text"]]
    print(f"{len(data.synthetic)} synthetic, {len(data.real)} recordings, {len(kept)} classes", flush=True)
    stage = replace(
        HEAR,
        train=("connector", "letters"),
        optimizer=replace(HEAR.optimizer, lr=args.lr),
        budget=replace(HEAR.budget, steps=args.steps),
    )

    def report(step: int, steps: int, line: dict[str, float]) -> None:
        if step % 10 == 0:
            print(step, {k: round(v, 4) for k, v in line.items()}, flush=True)
        if step % 100 == 99:
            print(step, check(learner, tokenizer, data, val), flush=True)

    run_stage(learner, stage, data.batch, args.out, 100, seed=3, options=LoopOptions(report=report))
    print(check(learner.eval(), tokenizer, data, val))
    parametrize.remove_parametrizations(connector.classes, "weight")
    matrices = {f"{n}.weight" for n, m in connector.named_modules() if isinstance(m, nn.Linear)}
    save_safetensors(pack(connector.state_dict(), matrices), args.ship)
    print(f"{args.ship}: {args.ship.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
