"""Evaluate speech input of `mini`: Whisper's transcripts against the audio connector of `mini:hears`, on human speech.

    heard      word error rate of each transcript; coffee orders have terms instead of reference texts
    repeated   word error rate of the answer to "What is said in the recording?", which involves the language model
    asked      an image and a question with a spoken noun ("Is this" + recording + "?"): how often the answer is that of
               the typed question.  Only the noun is recorded speech: there are no recordings of whole questions.

Sets: the `test` split of speak.py.  The voices of Tux Paint and LibriVox are in no training set; the prompts are other
texts of a training voice; coffee orders name other terms, perhaps by training speakers.  Intervals: bootstrap over
recordings for word error rates, Wilson for proportions.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from measure import Pictures, share

import polymodal as pm
from polymodal.data.media import Audio
from polymodal.data.processor import Processor
from polymodal.data.sets.split import normalise
from polymodal.evaluate.metrics import error_rate, word_errors, yes_or_no
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions

RATE = 16_000
ASK = "What is said in the recording?"
SETS = ("tuxpaint", "asterisk", "pocketsphinx")
SYSTEMS = {"words": "mini", "direct": "mini:hears"}


class Recordings:
    """Test recordings of the part `people` of speak.py."""

    def __init__(self, folder: Path):
        lines = [json.loads(line) for line in (folder / "people.jsonl").open()]
        self.lines = [line for line in lines if line["split"] == "test"]
        self._store = np.load(folder / "people.i16.npy", mmap_mode="r")

    def of(self, corpus: str) -> list[dict]:
        return [line for line in self.lines if line["corpus"] == corpus]

    def audio(self, line: dict) -> Audio:
        samples = self._store[line["first"] : line["first"] + line["length"]].astype(np.float32) / 32768
        return pm.audio((samples, RATE))


def rate(lines: Sequence[dict], transcripts: Sequence[str]) -> dict:
    """Word error rate with its interval."""
    pairs = [word_errors(normalise(line["text"]), normalise(t)) for line, t in zip(lines, transcripts, strict=True)]
    value, low, high = error_rate(pairs)
    text = f"{100 * value:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
    return {"rate": value, "interval": (low, high), "words": sum(n for _, n in pairs), "n": len(pairs), "text": text}


def generate_answers(model: pm.Model, processor: Processor, conversations: list, tokens: int) -> list[str]:
    """Greedy answers, one conversation at a time."""
    answers = []
    for conversation in conversations:
        batch = processor([conversation], generate=True)
        constraints = DecodingConstraints(tokenizer=processor.tokenizer)
        answers.append(generate(model.module, batch, SamplingOptions(max_tokens=tokens), constraints)[0].text.strip())
    return answers


def heard(model: pm.Model, data: Recordings, samples: dict) -> dict[str, dict]:
    """Word error rates of transcripts and of repeated texts for each set, and the terms of coffee orders."""
    table: dict[str, dict] = {}
    for corpus in SETS:
        lines = data.of(corpus)
        transcripts = [model.transcribe(data.audio(line)).text for line in lines]
        asked = [[{"role": "user", "content": [data.audio(line), ASK]}] for line in lines]
        repeated = generate_answers(model, model.processor, asked, 48)
        table[corpus] = {"heard": rate(lines, transcripts), "repeated": rate(lines, repeated)}
        for line, t, r in zip(lines, transcripts, repeated, strict=True):
            samples.setdefault(line["id"], {"right": line["text"]})[model.name] = {"heard": t, "repeated": r}
    orders = data.of("picovoice")
    recognised = [set(normalise(model.transcribe(data.audio(line)).text).split()) for line in orders]
    terms = [set(line["hint"].split()) for line in orders]
    missed = [(len(t - r), len(t)) for t, r in zip(terms, recognised, strict=True)]
    value, low, high = error_rate(missed)
    text = f"{100 * value:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
    table["orders"] = {"missed": value, "interval": (low, high), "n": len(orders), "text": text,
                       "words": sum(n for _, n in missed)}  # fmt: skip
    return table


def questions(data: Recordings, pictures: Pictures) -> list[dict]:
    """Two questions per spoken caption, about its own image and about another: recording, noun, image, answer."""
    stamps = {line["id"]: line for line in pictures.lines if line["corpus"] == "tuxpaint"}
    pairs = []
    for line in data.of("tuxpaint"):
        stem = line["id"].rsplit("_desc", 1)[0]
        if picture := next((stamps[i] for i in (f"{stem}.png", f"{stem}.svg") if i in stamps), None):
            pairs.append((line, picture))
    rng = random.Random(0)
    asked = []
    for line, picture in pairs:
        noun = line["text"].rstrip(".").lower()
        others = [p for _, p in pairs if not set(p["nouns"]) & set(picture["nouns"])]
        for candidate, right in ((picture, True), (rng.choice(others), False)):
            asked.append({"recording": line, "noun": noun, "picture": candidate, "right": right})
    return asked


def answered(
    model: pm.Model, asked: list[dict], pictures: Pictures, spoken: Callable[[dict], list]
) -> list[bool | None]:
    """True (yes), False (no) or None (neither) for each question; `spoken` builds the content of the message."""
    processor = Processor(tokenizer=model.processor.tokenizer, template=model.processor.template,
                          modalities=tuple(model.processor.modalities.values()))  # fmt: skip
    conversations = [[{"role": "user", "content": [pm.image(pictures.image(q["picture"])), *spoken(q)]}] for q in asked]
    answers = generate_answers(model, processor, conversations, 4)
    return [{"yes": True, "no": False}.get(yes_or_no(answer) or "") for answer in answers]


def asked_of(models: dict[str, pm.Model], data: Recordings, pictures: Pictures, samples: dict) -> dict[str, dict]:
    """Accuracy, and agreement with the typed question, for typed and spoken questions."""
    asked = questions(data, pictures)
    words = {id(q): models["words"].transcribe(data.audio(q["recording"])).text.strip().rstrip(".") for q in asked}
    ways = {
        "typed": ("words", lambda q: [f"Is this {q['noun']}?"]),
        "words": ("words", lambda q: [f"Is this {words[id(q)].lower()}?"]),
        "direct": ("direct", lambda q: ["Is this ", data.audio(q["recording"]), "?"]),
        "no noun": ("words", lambda q: ["Is this it?"]),
    }
    by_way = {way: answered(models[name], asked, pictures, spoken) for way, (name, spoken) in ways.items()}
    table = {}
    for way, answers in by_way.items():
        right = sum(a == q["right"] for a, q in zip(answers, asked, strict=True))
        same = sum(a == b for a, b in zip(answers, by_way["typed"], strict=True))
        table[way] = {"right": share(right, len(asked)), "as typed": share(same, len(asked))}
    samples["asked"] = [{"picture": q["picture"]["id"], "noun": q["noun"], "right": q["right"],
                         **{way: by_way[way][i] for way in by_way}} for i, q in enumerate(asked[:12])]  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="output folder of speak.py")
    parser.add_argument("pictures", type=Path, help="output folder of prepare.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data, pictures = Recordings(args.recordings), Pictures(args.pictures)
    models = {name: pm.load(system) for name, system in SYSTEMS.items()}
    samples: dict = {}
    with torch.inference_mode():
        results: dict = {name: heard(model, data, samples) for name, model in models.items()}
        results["asked"] = asked_of(models, data, pictures, samples)
    args.out.write_text(json.dumps({**results, "samples": samples}, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
