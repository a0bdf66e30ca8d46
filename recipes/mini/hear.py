"""What stage `hear` learns from: windows of 30 s that hold several recordings each, with what is said and when.

    output of speak.py -> OUT/windows/PART-NUMBER.wav, OUT/hear-PART.jsonl, and the tokens that are told apart

    {"audio": "windows/people-3.wav", "labels": [{"start": 0.2, "end": 1.9, "text": "two coffees"}, ...]}

Several a window, with pauses between them, since Whisper's encoder takes as long for one.  The tokens are those of
SmolLM2 that occur more than once in the training texts; recordings with another one, or that are said too fast to be
told apart, are left out.  They are written into hears.safetensors, with weights that stage `hear` begins anew.
"""

from __future__ import annotations

import argparse
import json
import random
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from replies import backbone

from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.data.tokenizer import Tokenizer
from polymodal.systems.mini.components import BACKBONE, EAR, TRAINED_HEARS
from polymodal.train.speech import FEATURES, letters_of, needed
from polymodal.weights.export import save_safetensors
from polymodal.weights.packed import pack

RATE, WINDOW = 16_000, 30  # samples a second, seconds
PAUSE = 0.4  # around a recording at most, seconds
LONGEST = 14  # seconds


def known(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """The tokens that occur more than once."""
    counts = Counter(token for text in texts for token in tokenizer.encode(text))
    return sorted(token for token, count in counts.items() if count > 1)


def fits(line: dict, tokenizer: Tokenizer, tokens: set[int]) -> bool:
    """Whether a recording can be learned from; train/speech.py refuses others."""
    ids, frames = tokenizer.encode(line["text"]), line["length"] * FEATURES // RATE
    slow = needed(ids) <= frames // 2 - 1 and len(letters_of(line["text"])) + 4 <= frames
    return bool(ids) and {*ids} <= tokens and slow and line["length"] < LONGEST * RATE


def windows(lines: Sequence[dict], rng: random.Random) -> list[list[tuple[dict, int]]]:
    """Recordings and the samples at which they begin, as many in a window as fit."""
    found: list[list[tuple[dict, int]]] = [[]]
    at = 0
    for line in rng.sample(lines, len(lines)):
        at += rng.randrange(0, int(0.5 * PAUSE * RATE))
        if at + line["length"] > WINDOW * RATE:
            found.append([])
            at = 0
        found[-1].append((line, at))
        at += line["length"] + int(0.5 * PAUSE * RATE)
    return [each for each in found if each]


def write(window: Sequence[tuple[dict, int]], sounds: np.ndarray, path: Path) -> dict:
    """The recording of a window, and its line."""
    samples = np.zeros(WINDOW * RATE, np.int16)
    for line, at in window:
        samples[at : at + line["length"]] = sounds[line["first"] : line["first"] + line["length"]]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    said = [{"start": at / RATE, "end": (at + line["length"]) / RATE, "text": line["text"]} for line, at in window]
    return {"audio": f"windows/{path.name}", "labels": said}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output folder of speak.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="+", default=["people", "synthetic"], help="files that speak.py wrote")
    parser.add_argument("--language-model", type=Path, required=True, help="SmolLM2's GGUF file")
    args = parser.parse_args()
    tokenizer = backbone(args.language_model)[1]
    read = {part: [json.loads(line) for line in (args.data / f"{part}.jsonl").open()] for part in args.parts}
    training = {part: [x for x in lines if x["split"] == "train" and x["text"]] for part, lines in read.items()}
    tokens = known(tokenizer, [line["text"] for lines in training.values() for line in lines])
    (args.out / "windows").mkdir(parents=True, exist_ok=True)
    for part, lines in training.items():
        sounds = np.load(args.data / f"{part}.i16.npy", mmap_mode="r")
        chosen = windows([line for line in lines if fits(line, tokenizer, {*tokens})], random.Random(0))
        rows = [write(each, sounds, args.out / "windows" / f"{part}-{i}.wav") for i, each in enumerate(chosen)]
        (args.out / f"hear-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{part}: {sum(map(len, chosen))} recordings of {len(lines)} in {len(rows)} windows")
    connector = CTCConnectorConfig(vocab_size=len(tokens)).build(EAR.width, BACKBONE.width)
    connector.token_ids.copy_(torch.tensor(tokens))
    save_safetensors(pack(connector.state_dict(), ()), Path(TRAINED_HEARS.name))
    print(f"{len(tokens)} tokens; components.SPOKEN must say as many")


if __name__ == "__main__":
    main()
