"""Training SmolLM2-135M on texts of mixed length: `polymodal train`'s loop beside a plain loop over transformers.

    python benchmarks/training.py [--threads 2] [--texts 48] [--batch 8] [--rounds 1] [--longest 256] [--growth]

The same weights, texts, optimiser (AdamW, all parameters, float32) and number of steps; each text once a round:

    transformers   LlamaForCausalLM, batches padded to their longest text, as its Trainer and default collator do
    padded         ours, the same batches of texts, padded, rows of like length in a pass
    packed         ours, as many texts a step, several in a row that do not see each other

Each runs in a process of its own, in turns.  Prints learned tokens a second of the clock and of the processors (which
other work on the machine disturbs less), both beside transformers, the peak of memory beyond the weights, and which
share of the limit is reached: 6 operations a weight and learned token (norms, attention and padding not counted)
against the matrix products of a second, measured in the same process.  The mean loss of a token over all texts must be
the same on both sides before training (1e-3), or it exits with 1.

--growth: instead, the cost of a learned token against the longest text, the batch and the processes (1, 2).
Needs the weights (`polymodal pull mini`) and the extra `parity`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
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
from polymodal.train.ranks import started
from polymodal.train.recipe import Budget, DataSource, Stage
from polymodal.train.schedule import Constant
from polymodal.weights.fetch import fetch

RATE = 1e-5
KINDS = ("transformers", "padded", "packed")


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


def ours(model: pm.Model, rows: list[list[int]], args: argparse.Namespace) -> dict[str, float]:
    """Learned tokens and what they took, of all steps but the first (to warm up) and the last (not asked)."""
    steps, tokenizer = -(-len(rows) // args.batch), model.processor.tokenizer
    clocks = []

    def stop() -> bool:  # asked after each step but the last
        clocks.append(clock())
        return False

    with tempfile.TemporaryDirectory() as folder, started() as ranks:
        place = Path(ranks.gathered(folder)[0])
        if ranks.first:
            lines = (json.dumps({"text": tokenizer.decode(row)}) for row in rows)
            (place / "texts.jsonl").write_text("\n".join(lines))
        ranks.gathered(None)
        options = pm.TrainOptions(packing=args.only == "packed", save_every=10**6)
        chosen = stage(args.batch, steps, args.longest)
        pm.fit(model, [place / "texts.jsonl"], out=place / "run", stage=chosen, options=options, stop=stop)
        log = [json.loads(line) for line in (place / "run" / "log.jsonl").open()]
        cpu = sum(ranks.gathered(clocks[-1][1] - clocks[0][1]))
    return {"learned": sum(line["targets"] for line in log[1:-1]), "first": log[0]["loss"], "cpu": cpu,
            "seconds": clocks[-1][0] - clocks[0][0]}  # fmt: skip


def theirs(peer: Any, rows: list[list[int]], args: argparse.Namespace) -> dict[str, float]:
    """The same of the plain loop."""
    optimiser = torch.optim.AdamW(peer.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.0)
    peer.train()
    clocks, learned, losses = [], [], []
    for start in range(0, len(rows), args.batch):
        ids, mask = padded(rows[start : start + args.batch])
        optimiser.zero_grad(set_to_none=True)
        loss = peer(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        learned.append(int(mask[:, 1:].sum()))
        clocks.append(clock())
    return {"learned": sum(learned[1:-1]), "first": losses[0], "cpu": clocks[-2][1] - clocks[0][1],
            "seconds": clocks[-2][0] - clocks[0][0]}  # fmt: skip


def clock() -> tuple[float, float]:
    """Of the wall and of this process's work."""
    return time.perf_counter(), time.process_time()


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


def gemm_rate(size: int = 1024) -> float:
    """Operations of float32 matrix products that a second of the processors does, the best of ten."""
    left, right, best = torch.ones(size, size), torch.ones(size, size), 0.0
    for _ in range(10):
        began = time.process_time()
        left @ right
        best = max(best, 2 * size**3 / (time.process_time() - began))
    return best


def memory(name: str) -> int:
    """Bytes of this process: VmRSS now, or VmHWM at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def alone(args: argparse.Namespace) -> None:
    """What one contestant does in this process; prints its result."""
    torch.set_num_threads(args.threads)
    model = pm.load(fetch(SMOLLM2_135M_GGUF), dtype="float32")
    tokenizer = model.processor.tokenizer
    rows = [tokenizer.encode(text)[: args.longest] for text in texts(args.texts, args.longest)]
    weights = sum(each.numel() for each in model.parameters())
    subject: Any = model
    if args.only == "transformers":
        subject = llama(model.module.backbone, SHAPES["smollm2-135m"])
        model = None  # type: ignore[assignment]
    found = {}
    if args.check:
        found["mean"] = mean_loss(
            lambda ids: subject(ids).logits if model is None else subject.logits(input_ids=ids), rows
        )
    gc.collect()
    rate = gemm_rate()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    found |= theirs(subject, rows, args) if model is None else ours(subject, rows, args)
    lengths = sorted(map(len, rows))
    found |= {"peak": memory("VmHWM") - before, "limit": 6 * weights * found["learned"] / found["cpu"] / rate,
              "rate": rate, "texts": len(rows), "shortest": lengths[0], "median": lengths[len(lengths) // 2],
              "longest": lengths[-1]}  # fmt: skip
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found))


def run(only: str, args: argparse.Namespace, ranks: int = 1, **changes: Any) -> dict[str, float]:
    """A contestant in a process of its own, or in several."""
    given = {"threads": args.threads, "texts": args.texts, "batch": args.batch, "longest": args.longest, **changes}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *start, __file__, "--only", only, *words, *(["--check"] if args.check else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(args: argparse.Namespace) -> int:
    """The three, in turns."""
    args.check = True
    found = [{kind: run(kind, args) for kind in KINDS} for _ in range(args.rounds)]
    means = [found[0][kind]["mean"] for kind in KINDS]
    one = found[0]["packed"]
    said = f"{one['texts']} texts of {one['shortest']} to {one['longest']} tokens, median {one['median']}"
    print(f"{said}; first and last batch not counted; {one['rate'] / 1e9:.0f} GFLOP/s")
    print(f"mean losses {', '.join(f'{each:.5f}' for each in means)}")
    if max(means) - min(means) > 1e-3:
        print("the losses differ: these figures mean nothing")
        return 1
    base: dict[str, float] = {}
    for kind in KINDS:
        sums = {
            name: sum(each[kind][name] for each in found) for name in ("learned", "seconds", "cpu", "peak", "limit")
        }
        now = {"clock": sums["learned"] / sums["seconds"], "cpu": sums["learned"] / sums["cpu"], "peak": sums["peak"]}
        base = base or now
        clocks = (f"{now[name]:8.1f} tokens/{name} s {now[name] / base[name]:5.2f} x" for name in ("clock", "cpu"))
        peak = f"peak {sums['peak'] / len(found) / 1e9:5.2f} GB {sums['peak'] / base['peak']:5.2f} x"
        limit = f"{100 * sums['limit'] / len(found):3.0f} % of the limit"
        print(f"{kind:12} {'   '.join((*clocks, peak, limit))}   first loss {found[0][kind]['first']:.3f}")
    return 0


def growth(args: argparse.Namespace) -> int:
    """Seconds of the processors for a thousand learned tokens, packed, as one thing changes."""
    cases: list[tuple[str, dict[str, Any], int]] = [
        *((f"longest text {longest}", {"longest": longest}, 1) for longest in (96, 192, 384)),
        *((f"batch {batch}", {"batch": batch, "texts": 3 * batch}, 1) for batch in (4, 8, 16)),
        *((f"{ranks} processes", {"threads": 1}, ranks) for ranks in (1, 2)),
    ]
    for name, changes, ranks in cases:
        found = run("packed", args, ranks, **changes)
        print(f"{name:18} {1000 * found['cpu'] / found['learned']:7.2f} CPU s   "
              f"{1000 * found['seconds'] / found['learned']:7.2f} s a thousand learned tokens   "
              f"peak {found['peak'] / 1e9:5.2f} GB a process")  # fmt: skip
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)  # one of them, in this process
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        alone(args)
        return 0
    return growth(args) if args.growth else compare(args)


if __name__ == "__main__":
    sys.exit(main())
