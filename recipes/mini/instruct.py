"""Stage `instruct`: train the language model to use the output of the image connector.

    words of an image (from `align`) + dense slots -> spliced into the chat -> SmolLM2 with rank-8 LoRA -> answers

Trained: the dense slots and the confidence of the connector, and the adapters; everything else is frozen.  A training
row is one image with a few independent questions about it.  For 40 % of the images the words come from an aligner that
was not trained on their concept, so that they are as often wrong as at inference.  10 % of the rows have no image:
SmolLM2's own replies, and transcripts to repeat.
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
from align import WEIGHTS, WIDTH, Data, load, printer, standardise
from features import SHAPE
from questions import NameIndex, training_question
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
from polymodal.train.loop import LoopOptions, run_stage
from polymodal.weights.export import save_safetensors
from polymodal.weights.packed import pack

QUESTIONS = 4  # per image
FAR = 0.4  # share of images whose words come from another fold
TEXT_ONLY = 0.1  # share of rows without image
KIND_WEIGHTS = {"what": 3, "describe": 1, "yes_no": 3, "which": 2, "colour": 1, "category": 1}
PACKED = ("connector.sentence.weight", "connector.recall.weight", "connector.keys", "connector.class_keys")


class Learner(nn.Module):
    """The modules of the training run: `connector` and `backbone` (with adapters)."""

    def __init__(self, connector: NamesConnector, language: nn.Module, placeholder: int):
        super().__init__()
        self.connector = connector
        self.backbone = language
        self.placeholder = placeholder

    def forward(self, **batch) -> Output:
        """Next-token loss of a batch from `Conversations.batch`; without `summary`, no row has an image."""
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
class Conversations:
    """Training conversations about images, sampled by a seeded generator."""

    data: Data
    names: NameIndex
    processor: Processor
    slots: int
    replies: list[dict]
    recordings: list[dict]
    best: dict[str, np.ndarray]
    pools: list[np.ndarray]
    shares: Tensor

    def batch(self, size: int, connector: NamesConnector, generator: torch.Generator) -> dict:
        """A batch of tensors, with `summary` and `words` of the images; some of the words come from another fold."""
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
            views = np.asarray(rows, int)
            batch["summary"] = self.summaries(connector, views)
            batch["words"] = self.words(connector, views, np.asarray(far, bool))
        return batch

    def about(self, picture: dict, rng: random.Random) -> tuple[Encoded, list[int]]:
        """The image followed by its questions and answers, and the start index of each.

        The questions are branches: each attends to the image but not to the other questions (see `branched`).
        """
        row, starts = Encoded(input_ids=[], loss_mask=[], token_types=[]), []
        for number in range(QUESTIONS):
            question, said = self.question(picture, rng)
            parts = (Image(b""), Text(question))  # the empty image only marks the position
            answer = Message(role="assistant", parts=(Text(said),))
            single = self.encode([Message(role="user", parts=parts), answer])
            shared = len(single) - single.input_ids[::-1].index(self.placeholder) + len(self.after)
            begin = shared if number else 0
            starts.append(len(row) - begin + shared)
            row.input_ids.extend(single.input_ids[begin:])
            row.loss_mask.extend(single.loss_mask[begin:])
            row.token_types.extend(single.token_types[begin:])
        return row, starts

    def question(self, picture: dict, rng: random.Random) -> tuple[str, str]:
        """A question about the image, and its answer."""
        kind = rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
        question = training_question(picture, self.names, rng, (kind,))
        return question.question, question.answer

    @cached_property
    def placeholder(self) -> int:
        return self.processor.tokenizer.special(PLACEHOLDER)

    @cached_property
    def after(self) -> list[int]:
        return [i for words in AFTER for i in self.processor.tokenizer.encode(words.text)]

    def text_only(self, rng: random.Random) -> Encoded:
        if rng.random() < 0.5:
            item = rng.choice(self.recordings)
            ask, answer = quoted(item["said"]) + item["ask"], item["said"]
        else:
            item = rng.choice(self.replies)
            ask, answer = item["ask"], item["reply"]
        return self.encode([Message(role="user", parts=(Text(ask),)), Message(role="assistant", parts=(Text(answer),))])

    def encode(self, turns: list[Message], ask: bool = False) -> Encoded:
        """Encode as the processor does at inference, with the image as its placeholder tokens."""
        segments: list[Segment] = []
        for segment in TEMPLATE.render(turns, ask=ask):
            if isinstance(segment, Slot):
                segments += [*BEFORE, *[Special(name=PLACEHOLDER)] * self.slots, *AFTER]
            else:
                segments.append(segment)
        return self.processor.encode_segments(segments)

    def summaries(self, connector: NamesConnector, rows: np.ndarray) -> Tensor:
        return standardise(connector, self.data, rows)

    def words(self, connector: NamesConnector, rows: np.ndarray, far: np.ndarray) -> tuple[Tensor, Tensor]:
        order = np.where(far[:, None], self.best["far_order"][rows], self.best["order"][rows])
        chance = np.where(far[:, None], self.best["far_chance"][rows], self.best["chance"][rows])
        return connector.pack(torch.from_numpy(chance), torch.from_numpy(order))


def branched(batch: dict, starts: list[list[int]]) -> dict:
    """Make the questions of a row independent.

    The positions of each question continue after the image, and a question attends to itself and to everything before
    the first question.  Adds `visible` [B, T, T].
    """
    branch = torch.zeros_like(batch["input_ids"])
    for row, begins in enumerate(starts):
        for number, begin in enumerate(begins):
            branch[row, begin:] = number + 1
            batch["position_ids"][row, begin:] = torch.arange(branch.shape[1] - begin) + begins[0]
    batch["visible"] = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return batch


class CastWeight(nn.Module):
    """Parametrisation that casts a float32 master weight to `dtype` for the forward pass."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: Tensor) -> Tensor:
        return weight.to(self.dtype)


def cast_frozen(language: nn.Module, dtype: torch.dtype) -> None:
    """Cast the frozen weights to `dtype`; keep float32 master weights of the adapters."""
    adapters = [part for name, part in language.named_modules() if name.endswith(("lora_A", "lora_B"))]
    masters = [part.weight.detach().float().clone() for part in adapters]
    language.to(dtype)
    for part, master in zip(adapters, masters, strict=True):
        part.weight = nn.Parameter(master)
        parametrize.register_parametrization(part, "weight", CastWeight(dtype), unsafe=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--aligned", type=Path, required=True, help="output folder of align.py")
    parser.add_argument("--language-model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--ship", type=Path, required=True, help="path of the released file, trained.safetensors")
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
    cast_frozen(language, getattr(torch, args.dtype))
    conversations = build_conversations(args.data, args.aligned, data, tokenizer, connector)
    learner = Learner(connector, language, conversations.placeholder)
    stage = replace(
        INSTRUCT,
        train=("connector.dense", "connector.confidence"),
        optimizer=replace(INSTRUCT.optimizer, lr=args.lr),
        budget=replace(INSTRUCT.budget, batch=args.batch, steps=args.steps, precision=args.dtype),
    )

    def batches(step: int, generator: torch.Generator) -> dict:
        return conversations.batch(args.batch, connector, generator)

    with sdpa_kernel(SDPBackend.MATH):  # the backward pass is faster than that of flash attention for such short rows
        run_stage(learner, stage, batches, args.out, 100, seed=2, options=LoopOptions(report=printer(10)))
    ship(learner, data.names, args.ship)


def build_conversations(folder: Path, aligned: Path, data: Data, tokenizer, connector: NamesConnector) -> Conversations:
    """Training conversations from the output folders of prepare.py, replies.py and align.py."""
    training = [p for p in data.pictures if p["split"] == "train"]
    sizes = Counter(p["corpus"] for p in training)
    weights = [WEIGHTS[p["corpus"]] / sizes[p["corpus"]] for p in training]
    pools = [data.training[data.corpus[data.training] == c] for c in WEIGHTS]
    read = lambda name: [json.loads(line) for line in (folder / name).open()]  # noqa: E731
    return Conversations(
        data=data, names=NameIndex(training, weights), processor=Processor(tokenizer=tokenizer, template=TEMPLATE),
        slots=connector.config.tokens(SHAPE[0]), replies=[r for r in read("replies.jsonl") if r["complete"]],
        recordings=read("recordings.jsonl"), best=dict(np.load(aligned / "names.npz")), pools=pools,
        shares=torch.tensor(list(WEIGHTS.values())),
    )  # fmt: skip


def ship(learner: Learner, names: list[str], path: Path) -> None:
    """Write the released file: the connector and the adapters, with the names."""
    tensors = {f"connector.{n}": t.detach() for n, t in learner.connector.state_dict().items()}
    for name, part in learner.backbone.named_modules():
        if name.endswith(("lora_A", "lora_B")):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=False)
    tensors[YES] = torch.zeros(WIDTH)  # set by calibrate.py
    tensors |= {f"adapters.{n}": t for n, t in lora_state(learner.backbone).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_safetensors(pack(tensors, PACKED), path, metadata={"names": json.dumps(names)})
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
