"""Measure what `mini` hears: Whisper's words beside the audio connector of `mini:hears`, on recordings of people only.

    heard      word error rate of what each hears, against true texts; coffee orders have terms instead of texts
    repeated   the same of the answer to "What is said in the recording?": the language model in the loop
    asked      a picture, and a question whose noun is spoken ("Is this" + recording + "?"): how often the answer is the
               one that the typed question gets.  Only the noun is real speech: nobody recorded whole questions.

Sets: what speak.py put on the side `test`.  Tux Paint's and LibriVox's voices are in no training set; prompts are other
texts of a voice that is; coffee orders name other terms, their speakers may be the same.  Intervals: bootstrap over
recordings for word errors, Wilson for shares.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from corpora.record import normalise
from measure import Pictures, share

import polymodal as pm
from polymodal.data.media import Audio
from polymodal.data.processor import Processor
from polymodal.evaluate.metrics import error_rate, word_errors, yes_or_no
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions

RATE = 16_000
ASK = "What is said in the recording?"
SETS = ("tuxpaint", "asterisk", "pocketsphinx")
SYSTEMS = {"words": "mini", "direct": "mini:hears"}


class Recordings:
    """Test recordings of speak.py's part `people`."""

    def __init__(self, folder: Path):
        lines = [json.loads(line) for line in (folder / "people.jsonl").open()]
        self.lines = [line for line in lines if line["split"] == "test"]
        self._store = np.load(folder / "people.i16.npy", mmap_mode="r")

    def of(self, corpus: str) -> list[dict]:
        return [line for line in self.lines if line["corpus"] == corpus]

    def sound(self, line: dict) -> Audio:
        samples = self._store[line["first"] : line["first"] + line["length"]].astype(np.float32) / 32768
        return pm.audio((samples, RATE))


def rate(lines: Sequence[dict], said: Sequence[str]) -> dict:
    """Word error rate with its interval."""
    pairs = [word_errors(normalise(line["text"]), normalise(s)) for line, s in zip(lines, said, strict=True)]
    value, low, high = error_rate(pairs)
    text = f"{100 * value:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
    return {"rate": value, "interval": (low, high), "words": sum(n for _, n in pairs), "n": len(pairs), "text": text}


def written(model: pm.Model, processor: Processor, conversations: list, tokens: int) -> list[str]:
    """Greedy answers, one conversation at a time."""
    found = []
    for conversation in conversations:
        batch = processor([conversation], generate=True)
        ending = DecodingConstraints(tokenizer=processor.tokenizer)
        found.append(generate(model.module, batch, SamplingOptions(max_tokens=tokens), ending)[0].text.strip())
    return found


def heard(model: pm.Model, data: Recordings, samples: dict) -> dict[str, dict]:
    """What is transcribed and what is repeated, set by set; and the terms of coffee orders."""
    table: dict[str, dict] = {}
    for corpus in SETS:
        lines = data.of(corpus)
        said = [model.transcribe(data.sound(line)).text for line in lines]
        asked = [[{"role": "user", "content": [data.sound(line), ASK]}] for line in lines]
        repeated = written(model, model.processor, asked, 48)
        table[corpus] = {"heard": rate(lines, said), "repeated": rate(lines, repeated)}
        for line, s, r in zip(lines, said, repeated, strict=True):
            samples.setdefault(line["id"], {"right": line["text"]})[model.name] = {"heard": s, "repeated": r}
    orders = data.of("picovoice")
    said = [set(normalise(model.transcribe(data.sound(line)).text).split()) for line in orders]
    wanted = [set(line["hint"].split()) for line in orders]
    missed = [(len(w - s), len(w)) for w, s in zip(wanted, said, strict=True)]
    value, low, high = error_rate(missed)
    text = f"{100 * value:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
    table["orders"] = {"missed": value, "interval": (low, high), "n": len(orders), "text": text,
                       "words": sum(n for _, n in missed)}  # fmt: skip
    return table


def questions(data: Recordings, pictures: Pictures) -> list[dict]:
    """For each spoken caption its own picture and another recording's: recording, noun, picture, is it right?"""
    stamps = {line["id"]: line for line in pictures.lines if line["corpus"] == "tuxpaint"}
    pairs = []
    for line in data.of("tuxpaint"):
        stem = line["id"].rsplit("_desc", 1)[0]
        if found := next((stamps[i] for i in (f"{stem}.png", f"{stem}.svg") if i in stamps), None):
            pairs.append((line, found))
    rng = random.Random(0)
    asked = []
    for line, picture in pairs:
        noun = line["text"].rstrip(".").lower()
        others = [p for _, p in pairs if not set(p["nouns"]) & set(picture["nouns"])]
        for shown, right in ((picture, True), (rng.choice(others), False)):
            asked.append({"recording": line, "noun": noun, "picture": shown, "right": right})
    return asked


def answered(
    model: pm.Model, asked: list[dict], pictures: Pictures, spoken: Callable[[dict], list]
) -> list[bool | None]:
    """Yes, no or neither, for each question as `spoken` words it."""
    processor = Processor(tokenizer=model.processor.tokenizer, template=model.processor.template,
                          modalities=tuple(model.processor.modalities.values()))  # fmt: skip
    conversations = [[{"role": "user", "content": [pm.image(pictures.image(q["picture"])), *spoken(q)]}] for q in asked]
    return [{"yes": True, "no": False}.get(yes_or_no(a) or "") for a in written(model, processor, conversations, 4)]


def asked_of(models: dict[str, pm.Model], data: Recordings, pictures: Pictures, samples: dict) -> dict[str, dict]:
    """Right answers, and agreement with the typed question, of the typed and the two spoken ways."""
    asked = questions(data, pictures)
    words = {id(q): models["words"].transcribe(data.sound(q["recording"])).text.strip().rstrip(".") for q in asked}
    ways = {
        "typed": ("words", lambda q: [f"Is this {q['noun']}?"]),
        "words": ("words", lambda q: [f"Is this {words[id(q)].lower()}?"]),
        "direct": ("direct", lambda q: ["Is this ", data.sound(q["recording"]), "?"]),
        "no noun": ("words", lambda q: ["Is this it?"]),
    }
    said = {way: answered(models[name], asked, pictures, spoken) for way, (name, spoken) in ways.items()}
    table = {}
    for way, answers in said.items():
        right = sum(a == q["right"] for a, q in zip(answers, asked, strict=True))
        same = sum(a == b for a, b in zip(answers, said["typed"], strict=True))
        table[way] = {"right": share(right, len(asked)), "as typed": share(same, len(asked))}
    samples["asked"] = [{"picture": q["picture"]["id"], "noun": q["noun"], "right": q["right"],
                         **{way: said[way][i] for way in said}} for i, q in enumerate(asked[:12])]  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sounds", type=Path, help="speak.py's folder")
    parser.add_argument("pictures", type=Path, help="prepare.py's folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, pictures = Recordings(args.sounds), Pictures(args.pictures)
    models = {name: pm.load(system) for name, system in SYSTEMS.items()}
    samples: dict = {}
    with torch.inference_mode():
        found: dict = {name: heard(model, data, samples) for name, model in models.items()}
        found["asked"] = asked_of(models, data, pictures, samples)
    args.out.write_text(json.dumps({**found, "samples": samples}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
