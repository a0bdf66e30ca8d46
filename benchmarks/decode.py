"""Tokens a second of SmolLM2-135M-Instruct in CPU time of one thread, for machines that are shared.

    python benchmarks/decode.py [--rounds 3] [--tokens 12]

One sequence and eight, greedy, from prompts of 64 tokens, by turns: ours with the native library, ours with torch's
operators alone, both with int8 weights, int4, and transformers; the same weights and ids, medians.  Seconds are
those that this process computed, so that other work changes them by what it takes of the memory's bandwidth only;
llama.cpp has threads of its own and is measured by `polymodal bench`, on a quiet machine.  Exits with 1 where float32
ids differ.  Needs the weights (`polymodal pull mini`) and the extra `parity`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

import polymodal as pm
from polymodal.backbones import decoder
from polymodal.check.peer import peer_of
from polymodal.cli.machine import read_bandwidth
from polymodal.cli.speed import text
from polymodal.nn import linear, quantise
from polymodal.nn.native.library import library

PROMPT = 64


def with_torch_alone(run: Callable[..., Any], *given: Any) -> Any:
    """`run` as on a machine without a compiler."""
    with (
        patch.object(decoder._NATIVE, "of", lambda *_: None),
        patch.object(linear, "few_rows", lambda *_: None),
        patch.object(quantise, "few_rows", lambda *_: None),
    ):
        return run(*given)


def sides(ids: torch.Tensor, whole: Any, small: Any, smaller: Any, peer: Any, new: int) -> dict[str, Callable[[], Any]]:
    """By name; the first three have the same weights."""
    return {
        "native": lambda: text.decode(whole, ids, new),
        "torch alone": lambda: with_torch_alone(text.decode, whole, ids, new),
        "transformers": lambda: text.their_decode(peer, ids, new),
        "native, int8": lambda: text.decode(small, ids, new),
        "native, int4": lambda: text.decode(smaller, ids, new),
        "torch alone, int8": lambda: with_torch_alone(text.decode, small, ids, new),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole, small, smaller = (pm.load("mini", quantise=kind).module_for(False) for kind in (None, "int8", "int4"))
    peer, why = peer_of("mini", whole)
    if peer is None or library() is None:
        print(f"needs transformers and a C compiler ({why})")
        return 1
    differ = False
    print(f"memory is read at {read_bandwidth():.1f} GB/s now")
    with patch.object(text, "time", SimpleNamespace(perf_counter=time.process_time)):
        for rows in (1, 8):
            ids = torch.randint(1000, 40000, (rows, PROMPT), generator=torch.Generator().manual_seed(0))
            runs = sides(ids, whole, small, smaller, peer, args.tokens)
            found: dict[str, list[Any]] = {name: [] for name in runs}
            for turn in range(args.rounds + 1):
                for name, run in runs.items():
                    made = run()
                    if turn:  # the first round warms up
                        found[name].append(made)
            base = statistics.median(speed for speed, _ in found["transformers"])
            for name, results in found.items():
                middle = statistics.median(speed for speed, _ in results)
                ratio = f"{middle / base:.2f} x transformers"
                print(f"{rows} row{'s' * (rows > 1)}  {name:18} {middle:6.1f} tokens/s, {ratio}")
            written = [results[0][1] for name, results in found.items() if "int" not in name]
            differ = differ or any(each != written[0] for each in written)
    if differ:
        print("the ids of float32 differ: these figures mean nothing")
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
