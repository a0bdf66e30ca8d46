"""Remove the bias of `mini` against "Yes", calibrated on validation images that stage `instruct` did not learn.

    such images, yes/no questions -> `mini` -> hidden state h at the first token of the answer
    margin = logit of "Yes" - logit of "No"; the offset c with the most correct answers for margin + c > 0

The offset becomes a small change of one row of SmolLM2's embedding table (tied to its head): c m / |m|^2 for the mean
m of h.  It adds c to the logit of "Yes" at the start of an answer and hardly changes the embedding of "Yes".
It is written as `calibration.yes` to the released file; a second run starts from a row of zeros.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from conversations import pools
from measure import Pictures
from questions import NameIndex, Question, test_set
from torch import Tensor

import polymodal as pm
from polymodal.systems.mini.components import BACKBONE, TRAINED, YES
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import read_safetensors


def states(model: pm.Model, pictures: Pictures, asked: list[Question], batch: int = 8) -> Tensor:
    """Hidden states [N, D] at the start of each answer."""
    hidden = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        tensors = model.processor(
            [[{"role": "user", "content": [pm.image(pictures.image(pictures.by_id[q.picture])), q.question]}]
             for q in part], generate=True)  # fmt: skip
        hidden.append(model.module(**tensors, return_logits=False).hidden[:, -1])
    return torch.cat(hidden)


def offset(margins: Tensor, right: Tensor) -> float:
    """The offset with the most correct answers, smoothed, on a grid of tenths."""
    grid = torch.arange(-60, 61) / 10
    hits = ((margins[None] + grid[:, None] > 0) == right[None]).sum(1)
    smooth = torch.nn.functional.avg_pool1d(hits[None].double(), 5, 1, 2, count_include_pad=False)[0]
    return float(grid[smooth.argmax()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--size", type=int, default=600, help="questions")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = read_safetensors(Path(TRAINED.name))
    tensors = {name: stored[name] for name in stored} | {YES: torch.zeros(BACKBONE.width)}
    save_safetensors(tensors, Path(TRAINED.name), metadata=dict(stored.metadata))
    model, pictures = pm.load("mini"), Pictures(args.data)
    learned = {line["id"] for own in pools(pictures)["val"] for line in own}
    lines = [line for line in pictures.lines if line["split"] == "val" and line["id"] not in learned]
    asked = test_set(lines, NameIndex(pictures.lines), seed=1, size=args.size)["yes_no"]
    random.Random(0).shuffle(asked)
    yes, no = (model.processor.tokenizer.encode(word)[0] for word in ("Yes", "No"))
    with torch.inference_mode():
        hidden = states(model, pictures, asked)
        table = model.module.backbone.embed_tokens.weight
        margins = hidden @ (table[yes] - table[no])
        right = torch.tensor([q.answer.lower().startswith("yes") for q in asked])
        best, mean = offset(margins, right), hidden.mean(0)
        row = best * mean / mean.square().sum()
        shift = hidden @ row
    report = {"questions": len(asked), "offset": best, "yes rate before": (margins > 0).double().mean().item(),
              "accuracy before": ((margins > 0) == right).double().mean().item(),
              "accuracy after": ((margins + shift > 0) == right).double().mean().item(),
              "shift": [shift.min().item(), shift.max().item()], "row": row.norm().item(),
              "embedding": table[yes].norm().item()}  # fmt: skip
    print(json.dumps(report, indent=1))
    save_safetensors({**tensors, YES: row.half()}, Path(TRAINED.name), metadata=dict(stored.metadata))


if __name__ == "__main__":
    main()
