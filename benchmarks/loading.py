"""Loading a published folder: seconds and peak memory, ours beside transformers, each in a process of its own.

    python benchmarks/loading.py [--threads 2] [--rounds 5] [--layers 5] [--folder somewhere/with/room]

The folder is a LLaVA-1.5 of random weights (410 MB in float32 at 5 layers), saved by transformers in shards, in float32
and in bfloat16; the files are in the page cache.  Cases: float32 and bfloat16 as they are, bfloat16 from float32 files,
float32 from bfloat16 files, and (ours alone) int8 linears of the language model from both.

    load     from the call to the model, in a process that has imported both libraries' modules for it
    again    the same call once more
    read     the first sum over every weight: both map files whose dtype is wanted and read them only now
    peak     highest resident memory while loading above that before, as a multiple of the bytes of the loaded model

Medians.  Needs the extra `parity`, and Linux, which tells and forgets the peak of a process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

CASES = (
    ("float32", {"dtype": "float32"}),
    ("bfloat16", {"dtype": "bfloat16"}),
    ("float32", {"dtype": "bfloat16"}),
    ("bfloat16", {"dtype": "float32"}),
    ("float32", {"dtype": "float32", "quantise": "int8"}),
    ("bfloat16", {"dtype": "bfloat16", "quantise": "int8"}),
)


def make(folder: Path, layers: int) -> None:
    """`folder/float32` and `folder/bfloat16`."""
    import transformers

    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 512, "intermediate_size": 2048,
                       "num_hidden_layers": 8, "num_attention_heads": 8, "image_size": 224, "patch_size": 14},
        text_config={"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816,
                     "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 8,
                     "vocab_size": 8064},
        image_token_index=8000,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config)
    for dtype in ("float32", "bfloat16"):
        size = sum(p.numel() for p in model.parameters()) * getattr(torch, dtype).itemsize
        model.to(getattr(torch, dtype)).save_pretrained(folder / dtype, max_shard_size=size // 4)


def loader(who: str, folder: str, options: dict[str, Any]) -> Any:
    """A call that loads; what it needs is imported."""
    if who == "transformers":
        import transformers

        # Attributes of the package are imported when they are asked for.
        parts = transformers.LlavaForConditionalGeneration, transformers.CLIPVisionModel, transformers.LlamaModel
        dtype = getattr(torch, options["dtype"])
        return lambda: parts[0].from_pretrained(folder, dtype=dtype).eval()
    import polymodal as pm
    from polymodal.api import model, published  # noqa: F401
    from polymodal.systems import candidates
    from polymodal.weights import folder as folders  # noqa: F401
    from polymodal.weights import load  # noqa: F401

    candidates({"model_type": "llava"})
    return lambda: pm.load(folder, device="cpu", **options).module


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(who: str, folder: str, options: dict[str, Any]) -> dict[str, float]:
    """One process: load, read every weight, load again."""
    call = loader(who, folder, options)
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    seconds, module = timed(call)
    peak = resident("VmHWM") - before
    state = [*module.parameters(), *module.buffers()]
    size = sum(x.nbytes for x in state)
    read, _ = timed(lambda: [float(x.sum()) for x in state])
    state.clear()
    del module
    again, _ = timed(call)
    return {"load": seconds, "read": read, "again": again, "peak": peak / size, "size": size}


def warm_up() -> None:
    """Bring the code of torch's operations into memory, as imports do."""
    x = torch.randn(4, 64)
    (x.bfloat16().float().abs().amax(1) / 127 > 0).to(torch.int8)
    x.round().clamp_(-1, 1).sum()


def timed(call: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    with torch.no_grad():
        found = call()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--folder", help="where the checkpoints are written; default a temporary folder")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        print(json.dumps(measure(args.one[0], args.one[1], json.loads(args.one[2]))))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        make(Path(folder), args.layers)
        print(f"{args.threads} threads, medians of {args.rounds} processes each")
        for stored, options in CASES:
            compare(Path(folder) / stored, options, args)


def compare(folder: Path, options: dict[str, Any], args: argparse.Namespace) -> None:
    """Both sides by turns, so that a busy machine is busy for both."""
    sides = ("ours",) if "quantise" in options else ("transformers", "ours")
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side in sides:
            one = ["--threads", str(args.threads), "--one", side, str(folder), json.dumps(options)]
            done = subprocess.run([sys.executable, __file__, *one], capture_output=True, text=True, check=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{folder.name} files -> {' '.join(options.values())}")
    base: dict[str, float] = {}
    for side in sides:
        middle = {name: statistics.median(each[name] for each in found[side]) for name in found[side][0]}
        base = base or middle
        beside = ", ".join(f"{name} {middle[name] / base[name]:.2f} x" for name in ("load", "again"))
        both = (middle["load"] + middle["read"]) / (base["load"] + base["read"])
        print(f"  {side:12} load {middle['load']:.3f} s, again {middle['again']:.3f} s, read {middle['read']:.3f} s, "
              f"peak {middle['peak']:.2f} x {middle['size'] / 1e6:.0f} MB"
              + (f"  ({beside}, load + read {both:.2f} x)" if len(sides) > 1 else ""))  # fmt: skip


if __name__ == "__main__":
    main()
