"""What the connector of names holds that is solved, not trained: `solve.py before DATA` and `solve.py after DATA`.

    output of prepare.py, features.py and names.py -> summaries of every view of the pictures
    before stage `align`   centre and spread of the summaries; `sentence`, a ridge regression from the summary to the
                           MiniLM vector of the main name, which covers names without a picture, and retrieval
    after it               `mix`: what weighs `sentence` against the names that were trained, and by how much; three
                           values, by the likelihood of the right names of validation pictures

Writes them into the released file; `before` begins it anew, with fresh weights for all that is learned or solved later.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from conversations import SHARES
from features import SHAPE
from photographs import named, read_kinds, read_words
from safetensors.torch import load_file
from torch import Tensor

from polymodal.connectors.names import NamesConnector
from polymodal.systems.mini.components import BACKBONE, CONNECTOR, ENCODER, TRAINED, YES
from polymodal.weights.export import save_safetensors
from polymodal.weights.packed import pack, unpack
from polymodal.weights.read import read_safetensors

RIDGE = 0.01
PACKED = ("connector.sentence.weight", "connector.recall.weight", "connector.keys", "connector.class_keys")


@dataclass(frozen=True)
class Views:
    """Lines of pictures; of each view its picture, whether it is the plain one, its summary float16 [M, W]."""

    pictures: list[dict]
    of: np.ndarray
    plain: np.ndarray
    summaries: Tensor

    def rows(self, split: str, plain: bool = False) -> np.ndarray:
        """Those of the corpora that are trained on, of a split, whose main name is among the names."""
        use = np.asarray([p["split"] == split and p["corpus"] in SHARES and bool(p["right"]) for p in self.pictures])
        return np.flatnonzero(use[self.of] & (self.plain | (not plain)))

    def weights(self, rows: np.ndarray) -> Tensor:
        """Each corpus has its share; they sum to 1."""
        corpus = [self.pictures[index]["corpus"] for index in self.of[rows]]
        sizes = Counter(corpus)
        weights = torch.tensor([SHARES[each] / sizes[each] for each in corpus])
        return weights / weights.sum()


def read(folder: Path, connector: NamesConnector) -> tuple[Views, list[str], Tensor]:
    """The views, the names, and the sentence vectors of the names."""
    names = json.loads((folder / "names.json").read_text())
    index = {name: number for number, name in enumerate(names)}
    pictures = [json.loads(line) for line in (folder / "pictures.jsonl").open()]
    for picture in pictures:
        picture["right"] = [index[noun] for noun in picture["nouns"] if noun in index]
    by_id = {picture["id"]: number for number, picture in enumerate(pictures)}
    of, parts = [], []
    for kind in ("plain", "augmented"):
        marks = [json.loads(line) for line in (folder / f"{kind}.jsonl").open()]
        stored = np.memmap(folder / f"{kind}.f16", dtype=np.float16, mode="r", shape=(len(marks), *SHAPE))
        for first in range(0, len(marks), 512):
            chunk = torch.from_numpy(stored[first : first + 512].astype(np.float32))
            parts.append(connector.summary(chunk).half())
        of += [(by_id[picture], view == 0) for picture, view in marks]
    numbers = np.asarray(of)
    vectors = load_file(folder / "text.safetensors")["names"]
    return Views(pictures, numbers[:, 0], numbers[:, 1].astype(bool), torch.cat(parts)), names, vectors


def standardised(connector: NamesConnector, views: Views, rows: np.ndarray) -> Tensor:
    return (views.summaries[rows].float() - connector.centre) / connector.spread


def solve_sentence(connector: NamesConnector, views: Views) -> None:
    """The weighted ridge regression from summary to the vector of the main name."""
    rows = views.rows("train")
    weights = views.weights(rows)
    main = torch.tensor([views.pictures[index]["right"][0] for index in views.of[rows]])
    width = len(connector.centre)
    gram, cross = RIDGE * torch.eye(width), torch.zeros(width, connector.config.key_width)
    for first in range(0, len(rows), 2048):
        part = slice(first, first + 2048)
        x, w = standardised(connector, views, rows[part]), weights[part, None]
        gram += (x * w).T @ x
        cross += x.T @ (w * connector.keys[main[part]])
    with torch.no_grad():
        connector.sentence.weight.copy_(torch.cholesky_solve(cross, torch.linalg.cholesky(gram)).T)
        connector.sentence.bias.zero_()


def fit_mix(connector: NamesConnector, views: Views) -> None:
    """The three values of `mix`."""
    rows = np.asarray([x for x in views.rows("val", plain=True)
                       if views.pictures[views.of[x]]["corpus"] != "quickdraw"])  # fmt: skip
    summary, right = standardised(connector, views, rows), torch.zeros(len(rows), connector.config.names).bool()
    for row, index in enumerate(views.of[rows]):
        right[row, views.pictures[index]["right"]] = True
    corpus = [views.pictures[index]["corpus"] for index in views.of[rows]]
    weights = torch.tensor([1 / corpus.count(each) for each in corpus])
    connector.requires_grad_(False)
    connector.mix.requires_grad_(True)
    optimiser = torch.optim.LBFGS([connector.mix], max_iter=40)

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = connector.logits(summary)
        missed = logits.logsumexp(-1) - logits.masked_fill(~right, float("-inf")).logsumexp(-1)
        loss = (missed * weights).sum() / weights.sum()
        loss.backward()
        return loss

    print("mix", optimiser.step(closure).item(), connector.mix.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("when", choices=("before", "after"))
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    connector = CONNECTOR.build(ENCODER.width, BACKBONE.width)
    views, names, vectors = read(args.data, connector)
    if args.when == "before":
        some = views.summaries[views.rows("train")[::7]].float()
        connector.centre.copy_(some.mean(0))
        connector.spread.copy_(some.std(0) + 0.05 * some.std(0).mean())
        connector.keys.copy_(vectors)
        shown = {n for p in views.pictures if p["split"] == "train" for n in p["right"]}
        if (len(names), len(shown)) != (CONNECTOR.names, CONNECTOR.classes):
            found = f"{len(names)} names, {len(shown)} of them with training pictures"
            raise ValueError(f"{found}; components.CONNECTOR says {CONNECTOR.names} and {CONNECTOR.classes}")
        connector.class_index.copy_(torch.tensor(sorted(shown)))
        solve_sentence(connector, views)
        names, (word_of, thing_of) = named(names, read_words(), [kind.word for kind in read_kinds()])
        connector.everyday.word_of.copy_(word_of)
        connector.everyday.thing_of.copy_(thing_of)
        others, about = {YES: torch.zeros(BACKBONE.width)}, {"names": json.dumps(names)}
    else:
        stored = read_safetensors(Path(TRAINED.name))
        others, about = unpack({name: stored[name] for name in stored}), dict(stored.metadata)
        own = {name.removeprefix("connector."): x for name, x in others.items() if name.startswith("connector.")}
        connector.load_state_dict(own)
        fit_mix(connector, views)
    tensors = others | {f"connector.{name}": x.detach() for name, x in connector.state_dict().items()}
    save_safetensors(pack(tensors, PACKED), Path(TRAINED.name), metadata=about)


if __name__ == "__main__":
    main()
