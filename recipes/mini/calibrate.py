"""Remove the bias of `mini` against "Yes", calibrated on validation images that stage `instruct` did not learn.

    such drawings and photographs, yes/no questions -> `mini` -> hidden state h at the first token of the answer
    margin = logit of "Yes" - logit of "No";  p(yes is right) = sigmoid(a margin + b), fitted (Platt, 1999)
    the offset c = b / a, with which margin + c > 0 where yes is the likelier answer

Drawings and photographs weigh the same: the margins of drawings say little, so that as many answers are right over a
wide range of c, at whose end mini says yes to everything in a photograph.  The offset becomes a small change of one row
of SmolLM2's embedding table (tied to its head): c m / |m|^2 for the mean m of h.  It adds c to the logit of "Yes" at
the start of an answer and hardly changes the embedding of "Yes".  It is written as `calibration.yes` to the released
file; the one that is there is taken off first.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from conversations import pools
from measure import Pictures
from measure_photographs import shares, yes_and_no
from photographs import scene_boxes, scenes
from questions import NameIndex, test_set
from torch import Tensor

import polymodal as pm
from polymodal.data.media import Image
from polymodal.systems.mini.components import TRAINED, YES
from polymodal.train.feature_cache import cached_features
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import read_safetensors

Asked = tuple[Image, str, bool]  # a picture, a question, whether yes is right


def of_drawings(pictures: Pictures, size: int) -> list[Asked]:
    """Questions about validation pictures of the corpora."""
    learned = {line["id"] for own in pools(pictures)["val"] for line in own}
    lines = [line for line in pictures.lines if line["split"] == "val" and line["id"] not in learned]
    asked = test_set(lines, NameIndex(pictures.lines), seed=1, size=size)["yes_no"]
    random.Random(0).shuffle(asked)
    return [(pm.image(pictures.image(pictures.by_id[each.picture])), each.question, each.answer.startswith("Yes"))
            for each in asked]  # fmt: skip


def of_scenes(folder: Path) -> list[Asked]:
    """Two questions about each validation photograph."""
    boxes = scene_boxes(folder)
    return [(pm.image(str(each.path)), question, right == "yes") for each in scenes(folder) if not each.test
            for right, question in yes_and_no(each, shares(boxes[each.key])).items()]  # fmt: skip


def states(model: pm.Model, asked: Sequence[Asked], batch: int = 8) -> Tensor:
    """Hidden states [N, D] at the start of each answer."""
    hidden = []
    for start in range(0, len(asked), batch):
        talks = [[{"role": "user", "content": [picture, question]}]
                 for picture, question, _ in asked[start : start + batch]]  # fmt: skip
        tensors = model.processor(talks, generate=True)
        hidden.append(model.module(**tensors, return_logits=False).hidden[:, -1])
    return torch.cat(hidden)


def offset(margins: Tensor, right: Tensor, weights: Tensor) -> float:
    """b / a of the logistic regression of `right` on `margins`, by Newton's method; all three [N]."""
    facts = torch.stack([margins, torch.ones_like(margins)], 1).double()
    fitted = torch.zeros(2, dtype=torch.float64)
    for _ in range(30):
        chance = (facts @ fitted).sigmoid()
        slope = facts.T @ (weights * (right.double() - chance))
        curve = (facts * (weights * chance * (1 - chance))[:, None]).T @ facts
        fitted = fitted + torch.linalg.solve(curve + 1e-9 * torch.eye(2), slope)
    return float(fitted[1] / fitted[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="output of prepare.py")
    parser.add_argument("scenes", type=Path, help="folder of COCO val2017")
    parser.add_argument("--size", type=int, default=600, help="questions about drawings")
    parser.add_argument("--feature-cache", type=Path, required=True, help="may be that of `polymodal train`")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = read_safetensors(Path(TRAINED.name))
    tensors = {name: stored[name] for name in stored}
    model = pm.load("mini")
    model.module.requires_grad_(False)  # what frozen parts make is cached
    parts = {"drawings": of_drawings(Pictures(args.data), args.size), "photographs": of_scenes(args.scenes)}
    yes, no = (model.processor.tokenizer.encode(word)[0] for word in ("Yes", "No"))
    with torch.inference_mode(), cached_features(model.module, args.feature_cache):
        hidden = torch.cat([states(model, asked) for asked in parts.values()])
        table = model.module.backbone.embed_tokens.weight
        margins = hidden @ (table[yes] - tensors[YES].float() - table[no])
        right = torch.tensor([yes_is_right for asked in parts.values() for *_, yes_is_right in asked])
        best = offset(margins, right, torch.cat([torch.ones(len(asked)) / len(asked) for asked in parts.values()]))
        mean = hidden.mean(0)
        row = best * mean / mean.square().sum()
        shift = hidden @ row
    report: dict[str, object] = {"offset": best, "shift": [shift.min().item(), shift.max().item()]}
    first = 0
    for name, asked in parts.items():
        own = slice(first, first := first + len(asked))
        said = {"before": margins[own] > 0, "after": margins[own] + shift[own] > 0}
        report[name] = {"questions": len(asked)} | {
            when: {"yes": each.double().mean().item(), "right": (each == right[own]).double().mean().item()}
            for when, each in said.items()}  # fmt: skip
    print(json.dumps(report, indent=1))
    save_safetensors({**tensors, YES: row.half()}, Path(TRAINED.name), metadata=dict(stored.metadata))


if __name__ == "__main__":
    main()
