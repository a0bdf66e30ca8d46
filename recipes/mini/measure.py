"""Evaluate `mini` and two baselines, and write the numbers and samples of the model card.

    mini            the image as input of the model
    words           the top five ImageNet names of EfficientNet-Lite0 as text input of SmolLM2-135M-Instruct
    language model  SmolLM2-135M-Instruct with the question only

Sets: unseen drawing styles (Noto, OpenMoji) of concepts trained on Fluent drawings; CIFAR-10 and groceries test
images; test images whose noun occurs in training in another set; test images whose noun does not.  Every proportion
has a 95 % interval (Wilson) and n.  Retrieval is over the test images of a set and their distinct captions.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image as Pillow
from questions import Question, is_correct
from replies import backbone, sentences

import polymodal as pm
from polymodal.data.processor import Processor
from polymodal.data.template import SMOLLM2
from polymodal.evaluate.metrics import Proportion, content_word, exact_name, ranks, recall_at
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems.mini.components import IMAGE

ASK = "What is this?"
PARTS = ("naming", "questions", "text_only", "retrieval")
Answerer = Callable[[Sequence[dict], Sequence[str]], list[str]]


class Pictures:
    """The images written by prepare.py, decoded."""

    def __init__(self, folder: Path):
        self.lines = [json.loads(line) for line in (folder / "pictures.jsonl").open()]
        self.by_id = {line["id"]: line for line in self.lines}
        self._store = np.load(folder / "images.u8.npy", mmap_mode="r")

    def pixels(self, line: dict) -> np.ndarray:
        return np.asarray(self._store[line["row"]])

    def image(self, line: dict) -> Pillow.Image:
        return Pillow.fromarray(self.pixels(line))

    def choose(self, size: int, **fields: object) -> list[dict]:
        """At most `size` images with these field values (a tuple: any of them), in a fixed random order."""

        def matches(line: dict) -> bool:
            return all(line[k] in v if isinstance(v, tuple) else line[k] == v for k, v in fields.items())

        lines = [line for line in self.lines if matches(line)]
        random.Random(0).shuffle(lines)
        return lines[:size]


def batched(answer: Callable[[Sequence[dict], Sequence[str]], list[str]], size: int = 16) -> Answerer:
    """`answer` in batches of `size`."""

    def run(lines: Sequence[dict], asks: Sequence[str]) -> list[str]:
        answers: list[str] = []
        for start in range(0, len(lines), size):
            answers += answer(lines[start : start + size], asks[start : start + size])
        return answers

    return run


def answerers(model: pm.Model, pictures: Pictures, data: Path, language_model: Path) -> dict[str, Answerer]:
    """The systems by name: each takes images and questions and returns answers."""
    bare, tokenizer = backbone(language_model)
    bare = MultimodalLM({}, {}, bare, {})
    plain = Processor(tokenizer=tokenizer, template=SMOLLM2)
    names = json.loads((data / "imagenet_names.json").read_text())

    def write(module, processor, conversations) -> list[str]:
        batch = processor(conversations, generate=True)
        ending = DecodingConstraints(tokenizer=processor.tokenizer)
        return [g.text.strip() for g in generate(module, batch, SamplingOptions(max_tokens=16), ending)]

    def mini(lines, asks):
        return write(model.module, model.processor, [
            [{"role": "user", "content": [pm.image(pictures.image(line)), ask]}]
            for line, ask in zip(lines, asks, strict=True)])  # fmt: skip

    def top_words(lines):
        values = torch.stack([IMAGE(pictures.image(line)) for line in lines])
        trunk = model.module.encoders["image"].grid.trunk
        best = trunk.classify(trunk.pool(trunk(values))).topk(5).indices.tolist()
        return [", ".join(names[i] for i in row) for row in best]

    def words(lines, asks):
        return write(bare, plain, [
            [{"role": "user", "content": f"A picture shows one of: {top}.\n{ask} Answer with a few words."}]
            for top, ask in zip(top_words(lines), asks, strict=True)])  # fmt: skip

    def blind(lines, asks):
        return write(bare, plain, [[{"role": "user", "content": f"{ask} Answer with a few words."}] for ask in asks])

    systems = {"mini": batched(mini), "words": batched(words), "language model": batched(blind)}
    systems["top words"] = batched(lambda lines, asks: top_words(lines), 64)
    return systems


def naming_sets(pictures: Pictures, size: int) -> dict[str, list[dict]]:
    other = ("tuxpaint", "openclipart", "fluent")
    sets = {
        "Noto, unseen style": pictures.choose(size, corpus="noto", split="style"),
        "OpenMoji, unseen style": pictures.choose(size, corpus="openmoji", split="style"),
        "CIFAR-10 test": pictures.choose(size, corpus="cifar10", split="test"),
        "groceries test": pictures.choose(size, corpus="groceries", split="test"),
        "noun seen in another set": pictures.choose(size, corpus=other, split="test", seen=True),
    }
    return sets | {f"unseen concepts, {c}": pictures.choose(size, corpus=c, split="test", seen=False) for c in other}


def naming(
    systems: dict[str, Answerer], pictures: Pictures, size: int, samples: list[dict], known: dict[str, dict]
) -> dict[str, dict]:
    """Exact noun and any content word, for every set and system; known: results that are not measured again."""
    table: dict[str, dict] = {}
    for name, lines in naming_sets(pictures, size).items():
        table[name] = dict(known.get(name, {}))
        for system, answer in systems.items():
            if system in table[name]:
                continue
            answers = answer(lines, [ASK] * len(lines))
            exact = sum(exact_name(a, (*line["nouns"], line["name"])) for a, line in zip(answers, lines, strict=True))
            word = sum(content_word(a, line["words"]) for a, line in zip(answers, lines, strict=True))
            table[name][system] = {"exact": share(exact, len(lines)), "word": share(word, len(lines))}
            samples += [{"set": name, "picture": line["id"], "right": line["nouns"], "system": system, "answer": a}
                        for line, a in list(zip(lines, answers, strict=True))[:12]]  # fmt: skip
        print(name, {s: (v["exact"]["text"], v["word"]["text"]) for s, v in table[name].items()}, flush=True)
    return table


def questions(answer: Answerer, pictures: Pictures, data: Path, size: int, samples: list[dict]) -> dict[str, dict]:
    """Accuracy for each kind of question, with the chance level of an answer that ignores the image."""
    every = [json.loads(line) for line in (data / "questions_test.jsonl").open()]
    chances = json.loads((data / "questions_test.json").read_text())
    table: dict[str, dict] = {"chance": chances}
    fields = Question.__dataclass_fields__
    for kind in ("yes_no", "which", "colour", "category"):
        asked = [Question(**{k: tuple(v) if isinstance(v, list) else v for k, v in q.items() if k in fields})
                 for q in every if q["kind"] == kind and q["picture"] in pictures.by_id]  # fmt: skip
        random.Random(0).shuffle(asked)
        asked = [q for q in asked if pictures.by_id[q.picture]["split"] == "test"][:size]
        answers = answer([pictures.by_id[q.picture] for q in asked], [q.question for q in asked])
        hits = [is_correct(q, a) for q, a in zip(asked, answers, strict=True)]
        table[kind] = share(sum(hits), len(hits))
        for wording, held in (("trained wording", False), ("new wording", True)):
            part = [h for q, h in zip(asked, hits, strict=True) if q.held_out_wording == held]
            table[kind][wording] = share(sum(part), len(part))
        if kind == "yes_no":
            table[kind]["said yes"] = sum(a.lower().startswith("yes") for a in answers) / len(answers)
        samples += [{"set": kind, "picture": q.picture, "question": q.question, "right": q.answer, "answer": a}
                    for q, a in list(zip(asked, answers, strict=True))[:12]]  # fmt: skip
        print(kind, table[kind], flush=True)
    return table


def retrieval(model: pm.Model, pictures: Pictures, top_words: Answerer, size: int) -> dict[str, dict]:
    """R@1 and R@5 in both directions, with mini's vectors and with sentence vectors of the ImageNet names."""
    table = {}
    for corpus in ("tuxpaint", "openclipart", "fluent"):
        lines = pictures.choose(size, corpus=corpus, split="test")
        captions = sorted({line["caption"] for line in lines})
        caption_of = [captions.index(line["caption"]) for line in lines]
        texts = model.embed([pm.text(c) for c in captions])
        images = model.embed([pm.image(pictures.image(line)) for line in lines])
        words = model.embed([pm.text(w) for w in top_words(lines, [ASK] * len(lines))])
        images_of = [[i for i, c in enumerate(caption_of) if c == caption] for caption in range(len(captions))]
        table[corpus] = {"pictures": len(lines), "captions": len(captions)}
        for name, vectors in (("mini", images), ("words", words)):
            ways = {"picture to caption": ranks(vectors @ texts.T, [[c] for c in caption_of]),
                    "caption to picture": ranks(texts @ vectors.T, images_of)}  # fmt: skip
            table[corpus][name] = {f"{w} R@{k}": _text(recall_at(r, k)) for k in (1, 5) for w, r in ways.items()}
        print(corpus, table[corpus], flush=True)
    return table


def text_only(model: pm.Model, language_model: Path, wordnet: Path, count: int = 160) -> dict[str, float]:
    """Perplexity of SmolLM2 with and without mini's adapters, on example sentences that no recipe step used."""
    lines = sentences(wordnet)
    random.Random(0).shuffle(lines)
    bare, tokenizer = backbone(language_model)

    def perplexity(decoder: torch.nn.Module) -> float:
        total, tokens = 0.0, 0
        for line in lines[6000 : 6000 + count]:
            ids = torch.tensor([tokenizer.encode(line)])
            hidden = decoder(decoder.embed(ids), torch.arange(ids.shape[1])[None])
            log_probs = decoder.head(hidden)[0, :-1].log_softmax(-1)
            total -= log_probs.gather(1, ids[0, 1:, None]).sum().item()
            tokens += ids.shape[1] - 1
        return math.exp(total / tokens)

    return {"sentences": count, "bare": perplexity(bare), "adapted": perplexity(model.module.backbone)}


def share(hits: int, n: int) -> dict:
    return _text(Proportion(hits, n))


def _text(p: Proportion) -> dict:
    return {"hits": p.hits, "n": p.n, "share": p.value, "interval": p.interval, "text": str(p)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all numbers and samples")
    parser.add_argument("--baselines", type=Path, help="earlier --out with the same --size: reuse its baseline names")
    parser.add_argument("--size", type=int, default=200, help="images per set, and questions of each kind")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="by default everything")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, pictures = pm.load("mini"), Pictures(args.data)
    systems = answerers(model, pictures, args.data, args.language_model)
    samples: list[dict] = []
    earlier = json.loads(args.baselines.read_text())["naming"] if args.baselines else {}
    known = {name: {s: cell for s, cell in cells.items() if s != "mini"} for name, cells in earlier.items()}
    parts: dict[str, Callable[[], dict]] = {
        "naming": lambda: naming(systems, pictures, args.size, samples, known),
        "questions": lambda: questions(systems["mini"], pictures, args.data, args.size, samples),
        "text_only": lambda: text_only(model, args.language_model, args.wordnet),
        "retrieval": lambda: retrieval(model, pictures, systems["top words"], 400),
    }
    with torch.inference_mode():
        results = {name: part() for name, part in parts.items() if name in args.only}
    args.out.write_text(json.dumps({**results, "samples": samples}, indent=1) + "\n")


if __name__ == "__main__":
    main()
