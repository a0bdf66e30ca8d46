"""What each process of tests/nn/test_ring_attention.py runs: its half of a sequence through a decoder, with gradients.

python ring_run.py RANK WORLD PORT FOLDER      writes FOLDER/RANK.pt: hidden states, gradients of inputs and weights
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ring_sample import decoder, sample

from polymodal.nn.ring_attention import RingMask


def main(rank: int, world: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model, (embeds, positions, segments) = decoder(), sample()
    length = embeds.shape[1] // world
    own = slice(rank * length, (rank + 1) * length)
    inputs = embeds[:, own].clone().requires_grad_(True)
    hidden = model(inputs, positions[:, own], RingMask(block=5, group=dist.group.WORLD, segments=segments[:, own]))
    hidden.square().sum().backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    torch.save({"hidden": hidden.detach(), "inputs": inputs.grad, **gradients}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
