"""What each process of test_sharded_objectives.py runs: one step of an objective on a sharded model, its own batch.

python sharded_objective.py RANK WORLD PORT KIND FOLDER      writes FOLDER/KIND-RANK.pt: losses and all gradients
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from polymodal.check import randomise
from polymodal.check.alignment import pairs, with_masked_words
from polymodal.check.evidence import albef, blip_2, flava, vilt
from polymodal.systems import get
from polymodal.train.momentum import MomentumAlignment
from polymodal.train.objectives import Loss, Objective
from polymodal.train.parallel import shard
from polymodal.train.pretraining import ContrastMatchCaption, MaskedMultimodalModeling, WordPatchPretraining

CASES: dict[str, tuple[str, int, Callable[[], dict[str, Any]], Objective]] = {
    "momentum": ("albef", 0, lambda: albef.small("pretrained"), MomentumAlignment(queue=8, momentum=0.5)),
    "word-patch": ("vilt", 0, lambda: vilt.small(vilt.MASKED), WordPatchPretraining()),
    "masked-multimodal": ("flava", 0, flava.small, MaskedMultimodalModeling()),
    "contrast-match-caption": ("blip-2", 1, blip_2.small_retrieval, ContrastMatchCaption()),
}
KINDS = tuple(CASES)


def build(kind: str) -> tuple[nn.Module, Loss]:
    """The same random weights, teacher and queue in every process."""
    system, format, config, objective = CASES[kind]
    torch.manual_seed(0)
    model = get(system).formats[format].model_spec(config()).build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A temperature is no random number.
            if name not in ("temperature", "logit_scale"):
                parameter.copy_(randomise.tensor(name, tuple(parameter.shape)))
    return model, objective.build(model)


def batch(kind: str, rank: int) -> dict[str, Any]:
    """A batch of the objective, another for each process."""
    if kind == "masked-multimodal":
        return flava.batches(rank, 8)
    if kind == "contrast-match-caption":
        return blip_2.batches(rank)
    return with_masked_words(pairs(64, batch=4))(rank)


def main(rank: int, world: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    for kind in KINDS:
        model, loss = build(kind)
        shard(model)
        torch.manual_seed(rank)
        losses = loss(model.train(), batch(kind, rank))
        torch.stack(list(losses.values())).sum().backward()
        found = {name: each.detach() for name, each in losses.items()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert isinstance(parameter.grad, DTensor)
                found[name] = parameter.grad.full_tensor()
        torch.save(found, folder / f"{kind}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
