"""Stage `instruct`: teach the language model to use what the picture connector hands it.

    words of a picture (from `align`) + dense slots -> spliced into the chat -> SmolLM2 with rank-8 adapters -> answers

Trained: the connector's dense slots and confidence, and the adapters; everything else is frozen.  A conversation is one
picture and a few lessons about it.  For two pictures in five the words come from an aligner that has not seen the
picture's concept, so that the model meets words as wrong as they will be.  A tenth of the conversations have no
picture: SmolLM2's own replies, and recordings (as their words) to be repeated.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from align import WEIGHTS, WIDTH, Data, load, standardise, tell
from features import SHAPE
from questions import Book, lesson
from replies import backbone
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Encoded, Processor
from polymodal.data.template import Segment, Slot, Special
from polymodal.fusion.splice import splice
from polymodal.models.output import Output
from polymodal.nn.lora import apply_lora, lora_state
from polymodal.nn.losses import lm_head_loss
from polymodal.nn.mask import MaskSpec
from polymodal.pipelines.speech_as_text import quoted
from polymodal.systems.mini.components import (
    ADAPTED,
    AFTER,
    ALPHA,
    BEFORE,
    PLACEHOLDER,
    RANK,
    TEMPLATE,
    YES,
    set_vocabulary,
)
from polymodal.systems.mini.recipe import INSTRUCT
from polymodal.train.loop import run_stage
from polymodal.weights.export import save_safetensors
from polymodal.weights.packed import pack

LESSONS = 4
FAR = 0.4  # share of pictures whose words come from another fold
TEXT_ONLY = 0.1
KIND_WEIGHTS = {"what": 3, "describe": 1, "yes_no": 3, "which": 2, "colour": 1, "category": 1}
PACKED = ("connector.sentence.weight", "connector.recall.weight", "connector.keys", "connector.class_keys")


class Learner(nn.Module):
    """What trains and what it needs: `connector` and `backbone` (with adapters)."""

    def __init__(self, connector: NamesConnector, language: nn.Module, placeholder: int):
        super().__init__()
        self.connector = connector
        self.backbone = language
        self.placeholder = placeholder

    def forward(self, **batch) -> Output:
        """What `Lessons.batch` made -> the next-token loss; without `summary` no row has a picture."""
        ids = batch["input_ids"]
        embeds = self.backbone.embed(ids)
        if "summary" in batch:
            summary = nn.functional.dropout(batch["summary"], 0.3)
            features = self.connector.assemble(summary, *batch["words"])
            counts = (ids == self.placeholder).any(1).long()
            embeds = splice(embeds, ids, features, self.placeholder, counts)
        mask = MaskSpec(attention_mask=batch["attention_mask"], visible=batch["visible"])
        hidden = self.backbone(embeds, batch["position_ids"], mask)
        loss = lm_head_loss(hidden, self.backbone.head, batch["labels"])
        return Output(hidden=hidden, loss=loss, losses={"language_model": loss})


@dataclass
class Lessons:
    """Conversations about pictures, drawn by a seeded generator."""

    data: Data
    book: Book
    processor: Processor
    slots: int
    replies: list[dict]
    heard: list[dict]
    best: dict[str, np.ndarray]
    pools: list[np.ndarray]
    shares: Tensor

    def batch(self, size: int, connector: NamesConnector, generator: torch.Generator) -> dict:
        """A batch of tensors; pictures bring their `summary` and their `words`, some of which are another fold's."""
        encoded, starts, rows, far = [], [], [], []
        for _ in range(size):
            rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
            if rng.random() < TEXT_ONLY:
                encoded.append(self.text_only(rng))
                starts.append([])
                continue
            pool = self.pools[int(torch.multinomial(self.shares, 1, generator=generator))]
            row = int(pool[rng.randrange(len(pool))])
            conversation, branches = self.about(self.data.pictures[self.data.views[row, 0]], rng)
            encoded.append(conversation)
            starts.append(branches)
            rows.append(row)
            far.append(rng.random() < FAR)
        batch = branched(self.processor.collate(encoded, padding="right"), starts)
        if rows:
            seen = np.asarray(rows, int)
            batch["summary"] = standardise(connector, self.data, seen)
            batch["words"] = self.words(connector, seen, np.asarray(far, bool))
        return batch

    def about(self, picture: dict, rng: random.Random) -> tuple[Encoded, list[int]]:
        """The picture with its lessons behind it, and where each lesson begins.

        Lessons are branches: each is as if it were alone behind the picture (see `branched`).
        """
        whole, starts = Encoded(input_ids=[], loss_mask=[], token_types=[]), []
        for number in range(LESSONS):
            kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
            question = lesson(picture, self.book, rng, (kind,))
            parts = (Image(b""), Text(question.question))  # the image only marks the place
            answer = Message(role="assistant", parts=(Text(question.answer),))
            alone = self.encode([Message(role="user", parts=parts), answer])
            shared = len(alone) - alone.input_ids[::-1].index(self.placeholder) + len(self.after)
            begin = shared if number else 0
            starts.append(len(whole) - begin + shared)
            for mine, theirs in zip((whole.input_ids, whole.loss_mask, whole.token_types),
                                    (alone.input_ids, alone.loss_mask, alone.token_types), strict=True):  # fmt: skip
                mine.extend(theirs[begin:])
        return whole, starts

    @cached_property
    def placeholder(self) -> int:
        return self.processor.tokenizer.special(PLACEHOLDER)

    @cached_property
    def after(self) -> list[int]:
        return [i for words in AFTER for i in self.processor.tokenizer.encode(words.text)]

    def text_only(self, rng: random.Random) -> Encoded:
        if rng.random() < 0.5:
            item = rng.choice(self.heard)
            ask, answer = quoted(item["said"]) + item["ask"], item["said"]
        else:
            item = rng.choice(self.replies)
            ask, answer = item["ask"], item["reply"]
        return self.encode([Message(role="user", parts=(Text(ask),)), Message(role="assistant", parts=(Text(answer),))])

    def encode(self, turns: list[Message]) -> Encoded:
        """As the processor does it at run time, with the picture's place written as its placeholders."""
        segments: list[Segment] = []
        for segment in TEMPLATE.render(turns, ask=False):
            if isinstance(segment, Slot):
                segments += [*BEFORE, *[Special(name=PLACEHOLDER)] * self.slots, *AFTER]
            else:
                segments.append(segment)
        return self.processor.encode_segments(segments)

    def words(self, connector: NamesConnector, rows: np.ndarray, far: np.ndarray) -> tuple[Tensor, Tensor]:
        order = np.where(far[:, None], self.best["far_order"][rows], self.best["order"][rows])
        chance = np.where(far[:, None], self.best["far_chance"][rows], self.best["chance"][rows])
        return connector.pack(torch.from_numpy(chance), torch.from_numpy(order))


def branched(batch: dict, starts: list[list[int]]) -> dict:
    """Make the lessons of a row independent: positions start again behind the picture, and a lesson sees what
    comes before the first lesson and itself.  Adds `visible` [B, T, T]."""
    branch = torch.zeros_like(batch["input_ids"])
    for row, begins in enumerate(starts):
        for number, begin in enumerate(begins):
            branch[row, begin:] = number + 1
            batch["position_ids"][row, begin:] = torch.arange(branch.shape[1] - begin) + begins[0]
    batch["visible"] = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return batch


class Lowered(nn.Module):
    """A float32 parameter seen in another dtype: the master copy of an adapter beside frozen weights of that dtype."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


def lower(language: nn.Module, dtype: torch.dtype) -> None:
    """Bring the frozen weights to `dtype` and keep the adapters in float32."""
    adapters = [part for name, part in language.named_modules() if name.endswith(("lora_A", "lora_B"))]
    masters = [part.weight.detach().float().clone() for part in adapters]
    language.to(dtype)
    for part, master in zip(adapters, masters, strict=True):
        part.weight = nn.Parameter(master)
        parametrize.register_parametrization(part, "weight", Lowered(dtype), unsafe=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--aligned", type=Path, required=True, help="the folder that align.py wrote")
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--ship", type=Path, required=True, help="where trained.safetensors goes")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load(args.data)
    tensors = load_file(args.aligned / "aligned.safetensors")
    connector = NamesConfig(names=len(data.names), classes=len(tensors["class_index"])).build(SHAPE[1], WIDTH)
    connector.load_state_dict(tensors)
    language, tokenizer = backbone(args.language_model)
    set_vocabulary(connector, data.names, tokenizer, language.embed_tokens.weight)
    language.requires_grad_(False)
    apply_lora(language, ADAPTED, RANK, ALPHA)
    lower(language, getattr(torch, args.dtype))
    lessons = lessons_of(args.data, args.aligned, data, tokenizer, connector)
    learner = Learner(connector, language, lessons.placeholder)
    stage = replace(
        INSTRUCT,
        train=("connector.dense", "connector.confidence"),
        optimizer=replace(INSTRUCT.optimizer, lr=args.lr),
        budget=replace(INSTRUCT.budget, batch=args.batch, steps=args.steps, precision=args.dtype),
    )

    def batches(step: int, generator: torch.Generator) -> dict:
        return lessons.batch(args.batch, connector, generator)

    with sdpa_kernel(SDPBackend.MATH):  # for rows this short the backward pass is faster than the flash kernel's
        run_stage(learner, stage, batches, args.out, 100, tell(10), seed=2)
    ship(learner, data.names, args.ship)


def lessons_of(folder: Path, aligned: Path, data: Data, tokenizer, connector: NamesConnector) -> Lessons:
    training = [p for p in data.pictures if p["split"] == "train"]
    sizes = Counter(p["corpus"] for p in training)
    weights = [WEIGHTS[p["corpus"]] / sizes[p["corpus"]] for p in training]
    pools = [data.training[data.corpus[data.training] == c] for c in WEIGHTS]
    read = lambda name: [json.loads(line) for line in (folder / name).open()]  # noqa: E731
    return Lessons(
        data=data, book=Book(training, weights), processor=Processor(tokenizer=tokenizer, template=TEMPLATE),
        slots=connector.config.tokens(SHAPE[0]), replies=[r for r in read("replies.jsonl") if r["complete"]],
        heard=read("recordings.jsonl"), best=dict(np.load(aligned / "names.npz")), pools=pools,
        shares=torch.tensor(list(WEIGHTS.values())),
    )  # fmt: skip


def ship(learner: Learner, names: list[str], path: Path) -> None:
    """Write what the package carries: the connector and the adapters, with the names."""
    tensors = {f"connector.{n}": t.detach() for n, t in learner.connector.state_dict().items()}
    for name, part in learner.backbone.named_modules():
        if name.endswith(("lora_A", "lora_B")):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=False)
    tensors[YES] = torch.zeros(WIDTH)  # until calibrate.py has run
    tensors |= {f"adapters.{n}": t for n, t in lora_state(learner.backbone).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(pack(tensors, PACKED), path, metadata={"names": json.dumps(names)})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
