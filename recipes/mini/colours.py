"""Add a colour head to `mini`'s image connector: closed-form ridge regression on the connector's summary.

    training images of known colour -> features (features.py) -> summary [W] -> ridge -> one of 11 colours

The penalty is chosen by validation accuracy; rare colours get higher weights (inverse square root of their count).  The
head is written as `connector.colour` to the released file.  Labels come from the opaque pixels of images with a
transparent background (prepare.py), or from captions, so there are none for photographs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from features import SHAPE, Stored
from torch import Tensor

from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.systems.mini.components import COLOURS, TRAINED
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import read_safetensors

PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10_000.0)
KEYS = ("connector.colour.weight", "connector.colour.bias")


@torch.inference_mode()
def summaries(stored: Stored, connector: NamesConnector, pictures: list[dict]) -> Tensor:
    """Summaries [P, W], standardised."""
    return torch.cat([connector.summary(stored.of(picture["id"], 0)[None]) for picture in pictures])


def ridge(x: Tensor, right: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight [C, W] and bias [C] of the weighted regression of one-hot `right` on x [n, W], solved in dual form."""
    targets = F.one_hot(right, len(COLOURS)).float()
    share = torch.bincount(right, minlength=len(COLOURS)).clamp(min=1).rsqrt()[right][:, None]
    root = (share / share.mean()).sqrt()
    bias = targets.mean(0)
    a, b = x * root, (targets - bias) * root
    return b.T @ torch.linalg.solve(a @ a.T + penalty * torch.eye(len(a)), a), bias


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stored = read_safetensors(Path(TRAINED.name))
    tensors = {name: stored[name] for name in stored if name not in KEYS}
    connector = NamesConfig(names=1, classes=1).build(SHAPE[1], 1)
    connector.centre, connector.spread = (tensors[f"connector.{n}"].float() for n in ("centre", "spread"))
    every = [json.loads(line) for line in (args.data / "pictures.jsonl").open()]
    pictures = [p for p in every if p["colour"] and p["split"] in ("train", "val")]
    x = summaries(Stored(args.data), connector, pictures)
    right = torch.tensor([COLOURS.index(p["colour"].replace("gray", "grey")) for p in pictures])
    train = torch.tensor([p["split"] == "train" for p in pictures])
    best = (-1.0, 0.0, *ridge(x[train], right[train], PENALTIES[0]))
    for penalty in PENALTIES:
        weight, bias = ridge(x[train], right[train], penalty)
        hits = ((x[~train] @ weight.T + bias).argmax(-1) == right[~train]).double().mean().item()
        print(f"penalty {penalty:g}: accuracy {hits:.3f} on {int((~train).sum())} validation images")
        best = max(best, (hits, penalty, weight, bias), key=lambda candidate: candidate[0])
    print(f"{int(train.sum())} training images, penalty {best[1]:g}")
    tensors |= dict(zip(KEYS, (best[2].half(), best[3].half()), strict=True))
    save_safetensors(tensors, Path(TRAINED.name), metadata=dict(stored.metadata))


if __name__ == "__main__":
    main()
