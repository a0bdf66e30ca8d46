"""Stage `align`: train the image connector to predict the names of an image.

    features of the frozen encoder -> NamesConnector.summary (standardised)
    near     closed-form ridge regression from the summary to the MiniLM vector of the main name: covers names without
             training images, and retrieval between images and sentences
    recall   a linear map and learned keys of the training names, trained by SGD (names_loss) with strong dropout
    mix      two scales and a bias that combine both into one distribution, fitted on the validation images

Writes aligned.safetensors, and names.npz with the top names of every view: from the whole connector, and from a `near`
that was not trained on the concept of the image (3 folds).  Stage `instruct` uses both, so that the language model is
trained with words that are as often wrong as at inference.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from features import SHAPE
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.models.output import Output
from polymodal.systems.mini.recipe import ALIGN
from polymodal.train.loop import LoopOptions, run_stage

WEIGHTS = {"fluent": 3.0, "tuxpaint": 2.0, "openclipart": 3.0, "quickdraw": 1.5, "cifar10": 1.0, "groceries": 0.7}
FOLDS = 3
WIDTH = 576
DROPOUT = 0.75
RIDGE = 0.01
SEED = 1
STAGE = replace(ALIGN, train=("recall", "class_keys"))


@dataclass
class Data:
    """Images; views [M, 2] (image index or -1, view), their summaries float16 [M, W]; `right`: correct name indices."""

    pictures: list[dict]
    views: np.ndarray
    summaries: Tensor
    names: list[str]
    right: list[list[int]]
    keys: Tensor
    captions: Tensor

    @cached_property
    def plain(self) -> np.ndarray:
        """[P] row of the plain view of each image."""
        rows = np.flatnonzero((self.views[:, 1] == 0) & (self.views[:, 0] >= 0))
        plain = np.full(len(self.pictures), -1)
        plain[self.views[rows, 0]] = rows
        return plain

    @cached_property
    def training(self) -> np.ndarray:
        """Rows of the training views."""
        use = np.asarray([p["split"] == "train" and bool(r) for p, r in zip(self.pictures, self.right, strict=True)])
        return np.flatnonzero((self.views[:, 0] >= 0) & use[self.views[:, 0]])

    @cached_property
    def corpus(self) -> np.ndarray:
        """[M] corpus of each view."""
        return np.asarray([self.pictures[i]["corpus"] if i >= 0 else "" for i in self.views[:, 0]])

    @cached_property
    def fold(self) -> np.ndarray:
        """[M] fold of the concept of each view."""
        return np.asarray([fold_of(self.pictures[i]["key"]) if i >= 0 else -1 for i in self.views[:, 0]])

    def plain_rows(self, *splits: str) -> np.ndarray:
        """Rows of the plain views of images in these splits that have a known name."""
        selected = [i for i, p in enumerate(self.pictures) if p["split"] in splits and self.right[i]]
        return self.plain[selected][self.plain[selected] >= 0]

    def mask(self, rows: np.ndarray) -> Tensor:
        """bool [N, V]: the correct names of these views."""
        mask = torch.zeros(len(rows), len(self.names), dtype=torch.bool)
        for i, picture in enumerate(self.views[rows, 0]):
            mask[i, self.right[picture]] = True
        return mask


def fold_of(key: str) -> int:
    return int(hashlib.sha1(f"fold/{key}".encode()).hexdigest(), 16) % FOLDS


def load(folder: Path) -> Data:
    """Read the output of prepare.py, features.py and names.py."""
    pictures = [json.loads(line) for line in (folder / "pictures.jsonl").open()]
    names = json.loads((folder / "names.json").read_text())
    index = {name: i for i, name in enumerate(names)}
    right = [[index[n] for n in p["nouns"] if n in index] for p in pictures]
    vectors = load_file(folder / "text.safetensors")
    by_id = {p["id"]: i for i, p in enumerate(pictures)}
    connector = NamesConfig(names=1, classes=1).build(SHAPE[1], 1)
    views, parts = [], []
    for name in ("plain", "augmented"):
        marks = [json.loads(line) for line in (folder / f"{name}.jsonl").open()]
        views += [(by_id.get(picture, -1), view) for picture, view in marks]
        stored = np.memmap(folder / f"{name}.f16", dtype=np.float16, mode="r", shape=(len(marks), *SHAPE))
        parts += [connector.summary(torch.from_numpy(stored[i : i + 512].astype(np.float32))).half()
                  for i in range(0, len(marks), 512)]  # fmt: skip
    return Data(pictures, np.asarray(views), torch.cat(parts), names, right, vectors["names"], vectors["captions"])


def standardise(connector: NamesConnector, data: Data, rows: np.ndarray) -> Tensor:
    return (data.summaries[rows].float() - connector.centre) / connector.spread


def weights_of(data: Data, rows: np.ndarray) -> Tensor:
    """[N] sample weights that give each corpus its share; they sum to 1."""
    weights = np.zeros(len(rows), np.float32)
    for corpus, share in WEIGHTS.items():
        here = data.corpus[rows] == corpus
        weights[here] = share / max(1, here.sum())
    return torch.from_numpy(weights / weights.sum())


def ridges(connector: NamesConnector, data: Data) -> list[tuple[Tensor, Tensor]]:
    """(weight [E, W], bias [E]) of the ridge regression from summary to main name: without each fold, then on all."""
    rows = data.training
    weights = weights_of(data, rows)
    targets = data.keys[[data.right[i][0] for i in data.views[rows, 0]]]
    width = len(connector.centre)
    grams, cross = torch.zeros(FOLDS, width, width), torch.zeros(FOLDS, width, targets.shape[1])
    means = torch.zeros(FOLDS, targets.shape[1])
    for fold in range(FOLDS):
        inside = np.flatnonzero(data.fold[rows] == fold)
        for start in range(0, len(inside), 2048):
            part = inside[start : start + 2048]
            x, w = standardise(connector, data, rows[part]), weights[part, None]
            grams[fold] += (x * w).T @ x
            cross[fold] += x.T @ (w * targets[part])
            means[fold] += (w * targets[part]).sum(0)
    solutions = []
    for left_out in (*range(FOLDS), None):
        kept = [fold for fold in range(FOLDS) if fold != left_out]
        share = torch.stack([weights[data.fold[rows] == fold].sum() for fold in kept]).sum()
        factor = torch.linalg.cholesky(grams[kept].sum(0) / share + RIDGE * torch.eye(width))
        solved = torch.cholesky_solve(cross[kept].sum(0) / share, factor)
        solutions.append((solved.T.contiguous(), torch.zeros(targets.shape[1])))
    return solutions


def train_recall(connector: NamesConnector, data: Data, out: Path) -> None:
    """Train `recall` and the class keys, resumable in `out`."""
    pools = {c: data.training[data.corpus[data.training] == c] for c in WEIGHTS}
    pools = {c: rows for c, rows in pools.items() if len(rows)}
    shares = torch.tensor([WEIGHTS[c] for c in pools])
    class_of = torch.full((len(data.names),), -1)
    class_of[connector.class_index] = torch.arange(len(connector.class_index))
    right = [[int(class_of[n]) for n in names if class_of[n] >= 0] for names in data.right]
    learner = Recall(connector)

    def batches(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        which = torch.multinomial(shares, STAGE.budget.batch, replacement=True, generator=generator)
        lists = list(pools.values())
        rows = np.asarray([lists[c][torch.randint(len(lists[c]), (), generator=generator)] for c in which])
        mask = torch.zeros(len(rows), len(connector.class_index), dtype=torch.bool)
        for i, picture in enumerate(data.views[rows, 0]):
            mask[i, right[picture]] = True
        return {"summary": standardise(connector, data, rows), "right": mask}

    run_stage(learner, STAGE, batches, out, save_every=500, seed=SEED, options=LoopOptions(report=printer(100)))
    with torch.no_grad():
        connector.class_keys.copy_(F.normalize(learner.class_keys, dim=-1))
        connector.mix[1] = learner.log_scale


class Recall(nn.Module):
    """The part of the connector that is trained by SGD: summary -> logits of the training names."""

    def __init__(self, connector: NamesConnector):
        super().__init__()
        self.recall = connector.recall
        self.class_keys = nn.Parameter(F.normalize(torch.randn_like(connector.class_keys), dim=-1))
        self.register_buffer("log_scale", torch.tensor(3.6))

    def forward(self, summary: Tensor) -> Output:
        vectors = F.normalize(self.recall(F.dropout(summary, DROPOUT, training=self.training)), dim=-1)
        return Output(logits=vectors @ F.normalize(self.class_keys, dim=-1).T * self.log_scale.exp())


def printer(every: int):
    """A `report` callback that prints every n-th step."""

    def report(step: int, steps: int, line: dict[str, float]) -> None:
        if step % every == 0:
            print(step, {k: round(v, 4) for k, v in line.items()}, flush=True)

    return report


def fit_mix(connector: NamesConnector, data: Data) -> None:
    """Fit the three values of `mix` on the validation images by the likelihood of their correct names."""
    rows = data.plain_rows("val")
    rows = rows[data.corpus[rows] != "quickdraw"]
    summary, right = standardise(connector, data, rows), data.mask(rows)
    weights = torch.tensor([1 / (data.corpus[rows] == c).sum() for c in data.corpus[rows]])
    for parameter in connector.parameters():
        parameter.requires_grad_(False)
    connector.mix.requires_grad_(True)
    optimiser = torch.optim.LBFGS([connector.mix], max_iter=40)

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = connector.logits(summary)
        hit = logits.logsumexp(-1) - logits.masked_fill(~right, float("-inf")).logsumexp(-1)
        loss = (hit * weights).sum() / weights.sum()
        loss.backward()
        return loss

    print("mix", optimiser.step(closure), connector.mix.tolist())


@torch.inference_mode()
def measure(connector: NamesConnector, data: Data, split: str) -> None:
    """Print top-1 and top-5 accuracy over all names."""
    tally: dict[str, list[tuple[bool, bool]]] = {}
    rows = data.plain_rows(split)
    for start in range(0, len(rows), 512):
        part = rows[start : start + 512]
        best = connector.logits(standardise(connector, data, part)).topk(5).indices
        hits = data.mask(part).gather(1, best)
        for row, hit in zip(part, hits, strict=True):
            seen = "seen" if data.pictures[data.views[row, 0]]["seen"] else "unseen"
            tally.setdefault(f"{data.corpus[row]} {seen}", []).append((bool(hit[0]), bool(hit.any())))
    for group, lines in sorted(tally.items()):
        ones, fives = np.mean(lines, axis=0)
        print(f"{split} {group}: n {len(lines)} at1 {ones:.3f} at5 {fives:.3f}", flush=True)


@torch.inference_mode()
def best_names(connector: NamesConnector, data: Data, near: list[tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
    """Top names of all views: `order`, `chance` (indices, log-probabilities) by the whole connector, `far_*` by the
    `near` of another fold."""
    columns: dict[str, list[np.ndarray]] = {"order": [], "chance": [], "far_order": [], "far_chance": []}
    for start in range(0, len(data.views), 1024):
        rows = np.arange(start, min(start + 1024, len(data.views)))
        summary = standardise(connector, data, rows)
        chance, order = connector.top_names(connector.logits(summary))
        far = torch.empty(len(rows), len(data.names))
        for fold in range(FOLDS):
            here = torch.from_numpy(data.fold[rows] == fold)
            weight, bias = near[fold]
            vectors = F.normalize(summary[here] @ weight.T + bias, dim=-1)
            far[here] = vectors @ connector.keys.T * connector.mix[0].exp()
        far_chance, far_order = connector.top_names(far)
        for name, value in zip(columns, (order, chance, far_order, far_chance), strict=True):
            columns[name].append(value.numpy())
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    data = load(args.data)
    shown = sorted({n for p, r in zip(data.pictures, data.right, strict=True) if p["split"] == "train" for n in r})
    connector = NamesConfig(names=len(data.names), classes=len(shown)).build(SHAPE[1], WIDTH)
    some = data.summaries[data.training[::7]].float()
    connector.centre.copy_(some.mean(0))
    connector.spread.copy_(some.std(0) + 0.05 * some.std(0).mean())
    connector.keys.copy_(data.keys)
    connector.class_index.copy_(torch.tensor(shown))
    near = ridges(connector, data)
    with torch.no_grad():
        connector.sentence.weight.copy_(near[-1][0])
        connector.sentence.bias.copy_(near[-1][1])
    train_recall(connector, data, args.out / "recall")
    fit_mix(connector, data)
    for split in ("val", "test", "style"):
        measure(connector, data, split)
    save_file({n: t.contiguous() for n, t in connector.state_dict().items()}, args.out / "aligned.safetensors")
    np.savez(args.out / "names.npz", **best_names(connector, data, near))


if __name__ == "__main__":
    main()
