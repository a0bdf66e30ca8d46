"""What each process of tests/train/test_two_ranks.py runs: a sharded model writes, then one backward pass on its batch.

python sharded_run.py RANK WORLD PORT KIND FOLDER      writes FOLDER/KIND-RANK.pt: the loss and all gradients
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sharded_models import batches, build
from torch.distributed.tensor import DTensor

from polymodal.generation.ids import Request, can_generate, generate_ids
from polymodal.generation.sampling import SamplingOptions
from polymodal.train.parallel import shard


def main(rank: int, world: int, port: int, kind: str, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model = shard(build(kind))
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())  # what an optimiser made now holds
    if can_generate(model):
        # The first call of all is no forward, and in inference mode: neither may spoil the training that follows.
        prompt = {name: value for name, value in batches(kind)[0].items() if name != "labels"}
        request = Request(options=SamplingOptions(max_tokens=4), pad=0)
        written = [generate_ids(each.eval(), prompt, request) for each in (model, build(kind))]
        assert torch.equal(*written)
    model.train()
    output = model(**batches(kind)[rank])
    output.loss.backward()
    found = {"loss": output.loss.detach()}
    for name, parameter in model.named_parameters():
        # What no batch can reach (blocks behind the layer that is read, a frozen codec) has none on any process.
        if parameter.grad is not None:
            assert isinstance(parameter.grad, DTensor)
            found[name] = parameter.grad.full_tensor()
    torch.save(found, folder / f"{kind}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
