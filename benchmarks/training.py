"""Training SmolLM2-135M on texts of mixed length: `polymodal train`'s loop beside a plain loop over transformers.

    python benchmarks/training.py [--threads 2] [--texts 48] [--batch 8] [--rounds 1] [--longest 256]

The same weights, texts, optimiser (AdamW, all parameters, float32) and number of steps; each text once a round:

    transformers   LlamaForCausalLM, batches padded to their longest text, as its Trainer and default collator do
    padded         ours, the same batches of texts, padded
    packed         ours, as many texts a step, several in a row that do not see each other

Prints learned tokens a second and the ratio to transformers.  Before training, the mean loss of a token over all texts
must be the same on both sides (1e-3), or it exits with 1.  Needs the weights (`polymodal pull mini`) and the
extra `parity`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.backbones.llama import SHAPES, SMOLLM2_135M_GGUF
from polymodal.check.peer import llama
from polymodal.train.objectives import LanguageModeling
from polymodal.train.optimizer import AdamW
from polymodal.train.recipe import Budget, DataSource, Stage
from polymodal.train.schedule import Constant
from polymodal.weights.fetch import fetch

RATE = 1e-5


def texts(count: int, longest: int) -> list[str]:
    """Stretches of this project's pages, most of them short."""
    pages = " ".join(path.read_text() for path in sorted((Path(__file__).parents[1] / "docs").glob("*.md")))
    words, rng, found = pages.split(), random.Random(0), []
    for _ in range(count):
        length = int(longest / 2 * rng.random() ** 2) + 8
        start = rng.randrange(len(words) - length)
        found.append(" ".join(words[start : start + length]))
    return found


def stage(batch: int, steps: int, longest: int) -> Stage:
    return Stage(
        name="text",
        data=(DataSource(name="texts", kind="text"),),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(lr=RATE, clip=1.0),
        schedule=Constant(),
        budget=Budget(batch=batch, steps=steps, max_length=longest, precision="float32"),
        start="parts",
    )


def ours(model: pm.Model, data: Path, batch: int, steps: int, longest: int, packing: bool) -> tuple[float, int, float]:
    """(seconds, learned tokens, loss of the first step)."""
    with tempfile.TemporaryDirectory() as folder:
        pm.fit(model, [data], out=Path(folder) / "run", stage=stage(batch, steps, longest),
               options=pm.TrainOptions(packing=packing, save_every=10**6))  # fmt: skip
        log = [json.loads(line) for line in (Path(folder) / "run" / "log.jsonl").open()]
    return sum(line["seconds"] for line in log), sum(line["targets"] for line in log), log[0]["loss"]


def theirs(peer: Any, rows: list[list[int]], batch: int) -> tuple[float, int, float]:
    """The same of the plain loop."""
    optimiser = torch.optim.AdamW(peer.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.0)
    peer.train()
    began, learned, first = time.perf_counter(), 0, 0.0
    for start in range(0, len(rows), batch):
        ids, mask = padded(rows[start : start + batch])
        optimiser.zero_grad(set_to_none=True)
        loss = peer(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimiser.step()
        learned += int(mask[:, 1:].sum())
        first = first or loss.item()
    return time.perf_counter() - began, learned, first


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


@torch.inference_mode()
def mean_loss(logits_of: Any, rows: list[list[int]]) -> float:
    """Of every learned token of all texts."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row])
        found = torch.nn.functional.cross_entropy(logits_of(ids)[0, :-1].float(), ids[0, 1:], reduction="sum")
        total, count = total + found.item(), count + len(row) - 1
    return total / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--longest", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = pm.load(fetch(SMOLLM2_135M_GGUF), dtype="float32")
    peer = llama(model.module.backbone, SHAPES["smollm2-135m"])
    given = texts(args.texts, args.longest)
    tokenizer = model.processor.tokenizer
    rows = [tokenizer.encode(text)[: args.longest] for text in given]
    losses = [mean_loss(lambda ids: model.logits(input_ids=ids), rows), mean_loss(lambda ids: peer(ids).logits, rows)]
    lengths = sorted(map(len, rows))
    said = f"{len(rows)} texts of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(rows) // 2]}"
    print(f"{said}; mean losses {losses}")
    if abs(losses[0] - losses[1]) > 1e-3:
        print("the losses differ: these figures mean nothing")
        return 1
    steps = -(-args.texts // args.batch)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "texts.jsonl"
        data.write_text("\n".join(json.dumps({"text": tokenizer.decode(row)}) for row in rows))
        found: dict[str, list[tuple[float, int, float]]] = {"transformers": [], "padded": [], "packed": []}
        for _ in range(args.rounds):
            found["transformers"].append(theirs(peer, rows, args.batch))
            for name in ("padded", "packed"):
                found[name].append(ours(model, data, args.batch, steps, args.longest, packing=name == "packed"))
    base = None
    for name, results in found.items():
        speed = sum(learned for _, learned, _ in results) / sum(seconds for seconds, _, _ in results)
        base = base or speed
        learned, first = results[0][1], results[0][2]
        print(f"{name:14} {speed:8.1f} tokens/s  {speed / base:.2f} x  ({learned} learned, first loss {first:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
