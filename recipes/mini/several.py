"""Stage `several`: name several things in one answer, and say "I cannot tell" where mini cannot.

    python recipes/mini/several.py DATA SCENES THINGS --language-model FILE --out RUN --ship FILE

Goes on from the released connector and adapters; trained are the adapters and the confidence of the words alone.
    there_gate   of connectors/everyday.py: four values, by the likelihood of what is annotated in validation
                 photographs of scenes, and of the nouns of drawings; so each kind of thing has a chance of its own
    answers      the released model's own to the questions that it was trained for, so that they stay as they are
    several      its own first name, then the kinds of things whose chance is `LISTED` or more
    unknown      counting, reading, who, where, ... (UNKNOWN in wordings.py) -> "I cannot tell that from the picture."

Pictures: validation photographs (see photographs.py), pairs of scenes whose findings are joined, validation and
training pictures of the corpora.  Of Tux Paint the training pictures only, since its test set is small.  Every
`KEPT`-th picture is left out, to choose the steps with.  No test picture and no test wording is used.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from align import printer
from instruct import Conversations, Learner, cast_frozen
from lessons import article, bare, listed, own_questions, together, unknown_question
from measure import Pictures
from photographs import (
    SCENE,
    THING,
    Photograph,
    Read,
    fit_gate,
    read,
    read_kinds,
    read_nouns,
    scenes,
    things,
)
from questions import NameIndex
from replies import backbone
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from wordings import CANNOT, SEVERAL

from polymodal.connectors.everyday import Everyday
from polymodal.connectors.names import NamesConnector
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.lora import apply_lora, load_lora, lora_state
from polymodal.systems.mini import components
from polymodal.systems.mini.recipe import SEVERAL as STAGE
from polymodal.train.loop import LoopOptions, run_stage
from polymodal.weights.export import save_safetensors
from polymodal.weights.load import open_source, under
from polymodal.weights.packed import unpack
from polymodal.weights.read import TensorFile, read_safetensors

PER_SPLIT = 30  # pictures of each corpus from training, and from validation
PAIR = "pair"
PAIRS = 60  # of scenes
KEPT = 6
KIND_WEIGHTS = {"own": 7, "several": 3, "unknown": 1.8}
SHARES = {SCENE: 2.5, PAIR: 2.0, THING: 2.0}  # of the kinds of pictures; 1 elsewhere
GATE = "connector.everyday.there_gate"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture: where it comes from, its right nouns, its line in pictures.jsonl if it has one."""

    kind: str
    nouns: frozenset[str]
    source: Photograph | None = None
    line: dict | None = None

    def open(self, stored: Pictures):
        return self.source.open() if self.source else stored.image(self.line)

    def holds(self, nouns: frozenset[str]) -> bool:
        """Whether a kind of things that are called by these nouns is in it."""
        return nouns <= self.nouns if self.kind == SCENE else bool(nouns & self.nouns)


def pictures(stored: Pictures, photographs: Sequence[Photograph]) -> list[Shown]:
    """The pictures of this stage, see above."""
    shown = [Shown(kind=p.kind, nouns=p.nouns, source=p) for p in photographs if not p.test]
    for corpus in sorted({line["corpus"] for line in stored.lines}):
        for split in ("train", "val"):
            if (corpus, split) != ("tuxpaint", "val"):
                lines = stored.choose(PER_SPLIT, corpus=corpus, split=split)
                shown += [Shown(kind=corpus, nouns=heads(line["nouns"]), line=line) for line in lines]
    return shown


def heads(names: Sequence[str]) -> frozenset[str]:
    """Names, and the last word of each."""
    return frozenset(word for name in names for word in (name, name.split()[-1]))


def pairs(shown: list[Shown], said: Read) -> tuple[list[Shown], Read]:
    """Scenes in which also the things of another one are found: more things than most photographs have."""
    rng = random.Random(0)
    own = [i for i, each in enumerate(shown) if each.kind == SCENE]
    rows = torch.tensor([rng.sample(own, 2) for _ in range(PAIRS)])
    first, second = said[rows[:, 0]], said[rows[:, 1]]
    more = [replace(shown[a], kind=PAIR, nouns=shown[a].nouns | shown[b].nouns) for a, b in rows.tolist()]
    return more, replace(first, found=torch.maximum(first.found, second.found))


def fit_there(part: Everyday, said: Read, log_probs: Tensor, shown: list[Shown]) -> None:
    """Fit `there_gate`; photographs of one thing are left out, since what else they show is not annotated."""
    use = torch.tensor([each.kind != THING for each in shown])
    kinds = [each.kind for each in shown if each.kind != THING]
    right = labels([each for each in shown if each.kind != THING])
    corpora = len(set(kinds) - {SCENE})
    weights = torch.tensor([(1.0 if kind == SCENE else 1.0 / corpora) / kinds.count(kind) for kind in kinds])
    found, names, style = said.found[use], log_probs[use], part.style(said.summaries[use]).detach()

    def both() -> Tensor:
        chance = part.kinds_there(found, names, style).flatten()
        return torch.stack([chance, 1 - chance], dim=-1)

    flat = right.flatten()
    loss = fit_gate(part.there_gate, both, torch.stack([flat, ~flat], -1), weights.repeat_interleave(right.shape[1]))
    print(f"there_gate {[round(x, 4) for x in part.there_gate.tolist()]}, loss {loss:.4f}")


def labels(shown: list[Shown]) -> Tensor:
    """bool [N, K]: which of the detector's kinds each picture shows."""
    nouns = read_nouns()
    kinds = [nouns.get(kind.name, frozenset({kind.name})) for kind in read_kinds()]
    return torch.tensor([[each.holds(kind) for kind in kinds] for each in shown])


@dataclass(frozen=True)
class Words:
    """What the language model is given of n pictures: tokens and their weights [n, K]."""

    tokens: Tensor
    weights: Tensor


@torch.inference_mode()
def words(connector: NamesConnector, said: Read, log_probs: Tensor, there: Tensor | None) -> Words:
    colours = connector.colour(said.summaries).argmax(-1)
    return Words(*(x.clone() for x in connector.pack(*connector.top_names(log_probs, there), colours)))


@dataclass
class Lessons(Conversations):
    """Conversations about cached pictures: the released model's own answers, several things, and unknowns."""

    shown: list[Shown]
    summary: Tensor
    given: Words
    own: list[list[tuple[str, str]]]
    all: list[str]

    def question(self, picture: dict, rng: random.Random) -> tuple[str, str]:
        row = picture["row"]
        kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
        if kind == "several":
            return rng.choice(SEVERAL[0]), self.all[row]
        if kind == "unknown":
            return unknown_question(self.shown[row].line, bare(self.own[row][0][1]), 0, rng), CANNOT
        return rng.choice(self.own[row])

    def summaries(self, connector: NamesConnector, rows: np.ndarray) -> Tensor:
        return self.summary[rows]

    def words(self, connector: NamesConnector, rows: np.ndarray, far: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.given.tokens[rows], self.given.weights[rows]


class Asker:
    """A language model that answers questions about pictures whose words and summaries are known."""

    def __init__(self, lessons: Conversations, connector: NamesConnector, language: nn.Module):
        same, placeholders = {"image": nn.Identity()}, {"image": lessons.placeholder}
        self.model = MultimodalLM(same, same, language, placeholders).eval()
        self.lessons, self.connector = lessons, connector

    @torch.inference_mode()
    def __call__(self, given: Words, rows: Sequence[int], asks: Sequence[str], size: int = 48) -> list[str]:
        ends = DecodingConstraints(tokenizer=self.lessons.processor.tokenizer)
        answers: list[str] = []
        for start in range(0, len(rows), size):
            part = list(rows[start : start + size])
            turns = [[Message(role="user", parts=(Image(b""), Text(ask)))] for ask in asks[start : start + size]]
            batch = self.lessons.processor.collate(
                [self.lessons.encode(turn, ask=True) for turn in turns], padding="left"
            )
            features = self.connector.assemble(self.lessons.summary[part], given.tokens[part], given.weights[part])
            batch["pixel_values"] = features.to(self.model.backbone.embed_tokens.weight)
            found = generate(self.model, batch, SamplingOptions(max_tokens=16), ends)
            answers += [each.text.strip() for each in found]
            if start // size % 10 == 0:
                print(f"asked {len(answers)} of {len(rows)}", flush=True)
        return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py and replies.py")
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("things", type=Path, help="folder with a photograph of each ImageNet class")
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--ship", type=Path, required=True, help="path of the released file, trained.safetensors")
    parser.add_argument("--steps", type=int, default=STAGE.budget.steps)
    parser.add_argument("--batch", type=int, default=STAGE.budget.batch)
    parser.add_argument("--lr", type=float, default=STAGE.optimizer.lr)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    released = read_safetensors(Path(components.TRAINED.name))
    encoder, connector, language, lessons = prepared(args, released)
    shown, said, log_probs = seen(args, encoder, connector)
    there = connector.everyday.there(said.found, log_probs, said.summaries).detach()
    lessons.shown, lessons.summary = shown, said.summaries
    lessons.data, before = Rows(len(shown)), words(connector, said, log_probs, None)
    lessons.own = own_answers(args, Asker(lessons, connector, released_lm(released, args.dtype)), before, there)
    chances = there[:, connector.everyday.thing_of]
    lessons.all = [
        together(listed(article(own[0][1]), row)) for own, row in zip(lessons.own, chances.tolist(), strict=True)
    ]
    lessons.given = words(connector, said, log_probs, there)
    kept = {i for i in range(len(shown)) if i % KEPT == 0}
    lessons.pools = [np.asarray([i for i, each in enumerate(shown) if each.kind == kind and i not in kept])
                     for kind in dict.fromkeys(each.kind for each in shown)]  # fmt: skip
    lessons.shares = torch.tensor([SHARES.get(kind, 1.0) for kind in dict.fromkeys(each.kind for each in shown)])
    stage = replace(
        STAGE,
        train=("connector.confidence",),
        optimizer=replace(STAGE.optimizer, lr=args.lr),
        budget=replace(STAGE.budget, batch=args.batch, steps=args.steps, precision=args.dtype),
    )

    def batches(step: int, generator: torch.Generator) -> dict:
        return lessons.batch(args.batch, connector, generator)

    learner = Learner(connector, language, lessons.placeholder)
    with sdpa_kernel(SDPBackend.MATH):
        run_stage(learner, stage, batches, args.out, 50, seed=3, options=LoopOptions(report=printer(5)))
    report(Asker(lessons, connector, language), sorted(kept))
    ship(learner, released, args.ship)


class Rows:
    """The pictures as `Conversations` looks them up: by row, in one view each."""

    def __init__(self, count: int):
        self.pictures = [{"row": row} for row in range(count)]
        self.views = np.stack([np.arange(count), np.zeros(count, int)], axis=1)


def prepared(args: argparse.Namespace, released: TensorFile) -> tuple:
    """The released encoder, connector and language model with its adapters, and conversations without pictures yet."""
    ours = unpack({name: released[name] for name in released})
    ours.setdefault(GATE, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    files = open_source(components.LITE0_SOURCE), open_source(components.CENTERNET_SOURCE)
    encoder, connector = components.load_vision(*files, ours)
    language, tokenizer = backbone(args.language_model)
    components.add_yes_bias(language, tokenizer, ours[components.YES])
    components.set_vocabulary(
        connector, json.loads(released.metadata["names"]), tokenizer, language.embed_tokens.weight
    )
    language.requires_grad_(False)
    apply_lora(language, components.ADAPTED, components.RANK, components.ALPHA)
    load_lora(language, under(ours, "adapters."))
    cast_frozen(language, getattr(torch, args.dtype))
    lines = lambda name: [json.loads(line) for line in (args.data / name).open()]  # noqa: E731
    lessons = Lessons(
        data=None, names=None, processor=Processor(tokenizer=tokenizer, template=components.TEMPLATE),
        slots=connector.config.tokens(0), replies=[reply for reply in lines("replies.jsonl") if reply["complete"]],
        recordings=lines("recordings.jsonl"), best={}, pools=[], shares=torch.zeros(0), shown=[], summary=None,
        given=None, own=[], all=[],
    )  # fmt: skip
    return encoder, connector, language, lessons


def released_lm(released: TensorFile, dtype: str) -> nn.Module:
    """The language model with its released adapters merged, which writes faster than with them beside it."""
    ours = unpack({name: released[name] for name in released})
    file = open_source(components.SMOLLM2_135M_GGUF)
    language = components.load_lm(file, under(ours, "adapters."))
    components.add_yes_bias(language, Tokenizer.from_gguf(file.metadata), ours[components.YES])
    return language.to(getattr(torch, dtype))


def seen(args: argparse.Namespace, encoder, connector: NamesConnector) -> tuple[list[Shown], Read, Tensor]:
    """The pictures and what the networks say of them, with `there_gate` fitted."""
    stored, file = Pictures(args.data), args.out / "read.pt"
    shown = pictures(stored, [*scenes(args.scenes), *things(args.things)])
    if file.exists():
        said = Read(*torch.load(file))
    else:
        said = read(encoder, connector, [each.open(stored) for each in shown])
        torch.save([said.found, said.seen, said.learned, said.summaries], file)
    said = Read(*(x.clone() for x in (said.found, said.seen, said.learned, said.summaries)))
    part = connector.everyday
    names = lambda of: part(of.found, of.seen, of.learned, of.summaries).detach()  # noqa: E731
    fit_there(part, said, names(said), shown)
    more, joined = pairs(shown, said)
    said = Read(*(torch.cat(both) for both in zip(vars(said).values(), vars(joined).values(), strict=True)))
    return [*shown, *more], said, names(said)


def own_answers(args, asker: Asker, given: Words, there: Tensor) -> list[list[tuple[str, str]]]:
    """Questions about each picture with the released model's answers; the first of each asks what it is."""
    file, lessons = args.out / "own.json", asker.lessons
    if file.exists():
        return [[tuple(each) for each in row] for row in json.loads(file.read_text())]
    names = NameIndex([each.line for each in lessons.shown if each.line])
    rng, kinds = random.Random(0), [kind.word for kind in read_kinds()]
    asked = []
    for each, chance in zip(lessons.shown, there[:, asker.connector.everyday.thing_of], strict=True):
        found = [kinds[i] for i in chance.topk(3).indices.tolist()]
        first = found[0] if each.line is None else each.line["nouns"][0]
        asked.append(own_questions(each.line, names, [first, *found], rng))
    flat = [(row, ask) for row, asks in enumerate(asked) for ask in asks]
    said = iter(asker(given, [row for row, _ in flat], [ask for _, ask in flat]))
    rows = [[(ask, next(said)) for ask in asks] for asks in asked]
    file.write_text(json.dumps(rows, indent=0))
    return rows


def report(asker: Asker, kept: list[int]) -> None:
    """Print what became of the pictures that were left out of training."""
    lessons, rng = asker.lessons, random.Random(1)
    asks = [unknown_question(lessons.shown[row].line, bare(lessons.own[row][0][1]), 0, rng) for row in kept]
    said = asker(lessons.given, kept, asks)
    print(f"unknown: {sum(x == CANNOT for x in said)} of {len(said)}")
    own = [(row, ask, answer) for row in kept for ask, answer in lessons.own[row]]
    said = asker(lessons.given, [row for row, _, _ in own], [ask for _, ask, _ in own])
    same = sum(x == answer for x, (_, _, answer) in zip(said, own, strict=True))
    print(f"own answers: {same} of {len(own)} as before, {sum(x == CANNOT for x in said)} unknown")
    several = asker(lessons.given, kept, [rng.choice(SEVERAL[0]) for _ in kept])
    print(f"several: {sum(x == lessons.all[row] for x, row in zip(several, kept, strict=True))} of {len(kept)}")
    for row, answer in list(zip(kept, several, strict=True))[:40]:
        print(f"    {lessons.shown[row].kind}: {lessons.all[row]} | {answer}")


def ship(learner: Learner, released: TensorFile, path: Path) -> None:
    """Write the released file with the parts that were trained."""
    for name, part in learner.backbone.named_modules():
        if name.endswith(("lora_A", "lora_B")):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=False)
    trained = {f"adapters.{name}": x for name, x in lora_state(learner.backbone).items()}
    trained |= {"connector.confidence": learner.connector.confidence, GATE: learner.connector.everyday.there_gate}
    tensors = {name: released[name] for name in released} | {name: x.detach().half() for name, x in trained.items()}
    names = json.dumps(json.loads(released.metadata["names"]), separators=(",", ":"))
    save_safetensors(tensors, path, metadata={**released.metadata, "names": names})
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
