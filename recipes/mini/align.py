"""Stage `align`: teach the picture connector where pictures lie among the sentence vectors of names.

    maps of frozen EfficientNet-Lite0 -> NamesConnector.embed -> unit vector
    MiniLM(name) -> linear (identity at first) + a free difference for each trained name -> unit key
    loss = names_loss (any right name among all trained names) + contrastive_loss (picture and caption)

Only trained names compete in the loss, so names that no picture showed are not pushed away.  `--fold k` leaves out the
pictures whose concept falls in fold k of 3: stage `instruct` reads, for each picture, the words of a model
that has not seen its concept, as at test time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.train.loop import run_stage
from polymodal.train.objectives import contrastive_loss, names_loss
from polymodal.train.recipe import Stage

SCALE = 42.5
WEIGHTS = {"fluent": 3.0, "tuxpaint": 2.0, "openclipart": 3.0, "quickdraw": 1.5, "cifar10": 1.0, "groceries": 0.7}
FOLDS = 3


class Aligner(nn.Module):
    """The picture connector, the map of the text side, and a free difference for each name."""

    base: Tensor
    trained: Tensor

    def __init__(self, connector: NamesConnector, base: Tensor, trained: Tensor):
        super().__init__()
        self.connector = connector
        self.text = nn.Linear(base.shape[1], base.shape[1], bias=False)
        nn.init.eye_(self.text.weight)
        self.difference = nn.Parameter(torch.zeros_like(base))
        self.register_buffer("base", base)
        self.register_buffer("trained", trained)

    def keys(self) -> Tensor:
        """Unit keys [V, E] of all names."""
        return F.normalize(self.text(self.base) + self.difference, dim=-1)

    def captions(self, vectors: Tensor) -> Tensor:
        return F.normalize(self.text(vectors), dim=-1)


@dataclass
class Data:
    """Pictures, views [M, 2] (picture or -1, view) of the map rows, right names [P, V] as index lists, and caption vectors."""

    pictures: list[dict]
    views: np.ndarray
    maps: np.ndarray
    names: list[str]
    right: list[list[int]]
    captions: Tensor
    groups: Tensor

    @cached_property
    def plain(self) -> np.ndarray:
        """[P] map row of each picture's plain view."""
        rows = np.flatnonzero((self.views[:, 1] == 0) & (self.views[:, 0] >= 0))
        plain = np.full(len(self.pictures), -1)
        plain[self.views[rows, 0]] = rows
        return plain

    def features(self, rows: np.ndarray) -> Tensor:
        """float32 [N, 49, 1280] of the map rows."""
        return torch.from_numpy(self.maps[np.sort(rows)][np.argsort(np.argsort(rows))]).float() / SCALE

    def mask(self, pictures: np.ndarray) -> Tensor:
        """bool [N, V]: the right names of the pictures."""
        mask = torch.zeros(len(pictures), len(self.names), dtype=torch.bool)
        for row, picture in enumerate(pictures):
            mask[row, self.right[picture]] = True
        return mask


def fold_of(key: str) -> int:
    return int(hashlib.sha1(f"fold/{key}".encode()).hexdigest(), 16) % FOLDS


def load(folder: Path) -> Data:
    """Read prepare.py's, features.py's and names.py's results."""
    pictures = [json.loads(line) for line in (folder / "pictures.jsonl").open()]
    names = json.loads((folder / "names.json").read_text())
    index = {name: i for i, name in enumerate(names)}
    right = [[index[n] for n in p["nouns"] if n in index] for p in pictures]
    vectors = load_file(folder / "text.safetensors")
    groups: dict[str, int] = {}
    ids = [groups.setdefault(p["caption"], len(groups)) for p in pictures]
    marks = [json.loads(line) for line in (folder / "maps.jsonl").open()]
    maps = np.memmap(folder / "maps.u8", dtype=np.uint8, mode="r", shape=(len(marks), 49, 1280))
    by_id = {p["id"]: i for i, p in enumerate(pictures)}
    views = np.asarray([(by_id.get(name, -1), view) for name, view in marks])
    return Data(pictures, views, maps, names, right, vectors["captions"], torch.tensor(ids))


def train(data: Data, keys: Tensor, out: Path, stage: Stage, fold: int | None, threads: int) -> Aligner:
    """Train one aligner, resumable in `out`."""
    torch.set_num_threads(threads)
    torch.manual_seed(stage.seed)
    usable = [p["split"] == "train" and bool(r) for p, r in zip(data.pictures, data.right, strict=True)]
    if fold is not None:
        usable = [u and fold_of(p["key"]) != fold for u, p in zip(usable, data.pictures, strict=True)]
    trained = torch.zeros(len(data.names), dtype=torch.bool)
    for i, use in enumerate(usable):
        if use:
            trained[data.right[i]] = True
    model = Aligner(NamesConfig(names=len(data.names)).build(1280, 576), keys, trained)
    corpora: dict[str, np.ndarray] = {}
    use = np.asarray(usable)
    for corpus in WEIGHTS:
        is_corpus = np.asarray([p["corpus"] == corpus for p in data.pictures])
        corpora[corpus] = np.flatnonzero((use & is_corpus)[data.views[:, 0]] & (data.views[:, 0] >= 0))
    corpora = {c: rows for c, rows in corpora.items() if len(rows)}
    chances = torch.tensor([WEIGHTS[c] for c in corpora])

    def batches(step: int, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
        which = torch.multinomial(chances, stage.batch, replacement=True, generator=generator)
        pools = list(corpora.values())
        rows = np.asarray([pools[c][torch.randint(len(pools[c]), (), generator=generator)] for c in which])
        return data.features(rows), data.views[rows, 0]

    columns = trained.nonzero()[:, 0]

    def objective(module: nn.Module, batch: tuple[Tensor, np.ndarray]) -> tuple[Tensor, dict[str, float]]:
        assert isinstance(module, Aligner)
        features, pictures = batch
        if module.training:
            features = F.dropout(features, 0.1)
        vectors = module.connector.embed(features)
        logits = vectors @ module.keys()[columns].T * module.connector.log_scale.exp()
        naming = names_loss(logits, data.mask(pictures)[:, columns])
        pairs = contrastive_loss(vectors, module.captions(data.captions[pictures]), 0.07, data.groups[pictures])
        hits = data.mask(pictures)[:, columns].gather(1, logits.argmax(1, keepdim=True)).float().mean().item()
        return naming + 0.3 * pairs, {"naming": naming.item(), "pairs": pairs.item(), "hit": hits}

    def report(step: int, line: dict[str, float]) -> None:
        if step % 50 == 0:
            print(step, {k: round(v, 4) for k, v in line.items()}, flush=True)

    run_stage(model, stage, batches, objective, out, save_every=200, report=report)
    return model


def measure(model: Aligner, data: Data, split: str) -> dict[str, dict[str, float]]:
    """Exact name at 1 and 5 over all names, by corpus and by whether training saw the noun."""
    keys = model.keys()
    tally: dict[str, list[tuple[bool, bool]]] = {}
    chosen = np.asarray([i for i, p in enumerate(data.pictures) if p["split"] == split and data.right[i]])
    for start in range(0, len(chosen), 256):
        rows = chosen[start : start + 256]
        with torch.inference_mode():
            logits = model.connector.embed(data.features(data.plain[rows])) @ keys.T
        best = logits.topk(5).indices.tolist()
        for picture, top in zip(rows, best, strict=True):
            right = set(data.right[picture])
            seen = bool(model.trained[list(right)].any())
            line = (top[0] in right, bool(right & set(top)))
            tally.setdefault(f"{data.pictures[picture]['corpus']} {'seen' if seen else 'unseen'}", []).append(line)
    return {k: {"n": len(v), "at1": float(np.mean([a for a, _ in v])), "at5": float(np.mean([b for _, b in v]))}
            for k, v in sorted(tally.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=None)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    data = load(args.data)
    stage = Stage(name="align", data="mini pictures and names", train=("connector", "text", "difference"),
                  objective="names + contrastive", lr=args.lr, batch=args.batch, steps=args.steps, warmup=100,
                  weight_decay=0.05, seed=1)
    keys = load_file(args.data / "text.safetensors")["names"]
    model = train(data, keys, args.out, stage, args.fold, args.threads)
    for split in ("val", "test"):
        for group, numbers in measure(model, data, split).items():
            print(split, group, {k: round(v, 3) for k, v in numbers.items()})
    tensors = {f"connector.{n}": p.detach().contiguous() for n, p in model.connector.named_parameters()}
    save_file({**tensors, "keys": model.keys().detach().contiguous(), "text.weight": model.text.weight.detach(),
               "trained": model.trained.to(torch.uint8)}, args.out / "aligned.safetensors")


if __name__ == "__main__":
    main()
