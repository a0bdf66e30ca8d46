"""Tokens a second of SmolLM2-135M-Instruct: our decoder (plain, fused, int8) beside transformers, in one run.

The same weights and token ids.

    python benchmarks/decode.py [--threads 2] [--rounds 5]

Greedy, one sequence, prompt of 64 tokens, 64 new tokens, rounds interleaved; the median and the best are printed, with
the share of the limit that reading all weights once a token sets (measured bandwidth of this machine in this minute).
Needs the weights (`polymodal pull mini`) and the extra `parity`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch

from polymodal.backbones.llama import CONFIGS, SHAPES, SMOLLM2_135M_GGUF, gguf_keys
from polymodal.check.peer import llama
from polymodal.cli.machine import read_bandwidth
from polymodal.nn.fuse import fuse_projections
from polymodal.weights.fetch import fetch
from polymodal.weights.load import load_into
from polymodal.weights.read import read_gguf

PROMPT = NEW = 64


def ours(decoder) -> tuple[float, float]:
    """(prefill, decode) tokens a second."""
    ids = torch.arange(100, 100 + PROMPT)[None]
    cache = decoder.new_cache(1, PROMPT + NEW)
    start = time.perf_counter()
    hidden = decoder(decoder.embed(ids), torch.arange(PROMPT)[None], cache=cache)
    token = decoder.head(hidden[:, -1:]).argmax(-1)
    middle = time.perf_counter()
    for step in range(NEW - 1):
        hidden = decoder(decoder.embed(token), torch.tensor([[PROMPT + step]]), cache=cache)
        token = decoder.head(hidden).argmax(-1)
    return PROMPT / (middle - start), (NEW - 1) / (time.perf_counter() - middle)


def theirs(model) -> tuple[float, float]:
    ids = torch.arange(100, 100 + PROMPT)[None]
    start = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    middle = time.perf_counter()
    for _ in range(NEW - 1):
        token = out.logits[:, -1:].argmax(-1)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
    return PROMPT / (middle - start), (NEW - 1) / (time.perf_counter() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = CONFIGS["smollm2-135m"]
    plain = config.build().eval()
    load_into(plain, read_gguf(fetch(SMOLLM2_135M_GGUF)), gguf_keys(config))
    peer = llama(plain, SHAPES["smollm2-135m"])
    fused = copy.deepcopy(plain)
    fuse_projections(fused)
    small = copy.deepcopy(fused)
    small.quantise()
    runs = {"transformers": (theirs, peer), "ours": (ours, plain), "ours, fused": (ours, fused), "int8": (ours, small)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with torch.inference_mode():
        for round_ in range(args.rounds + 1):
            for name, (run, model) in runs.items():
                result = run(model)
                if round_:  # the first round warms up
                    found[name].append(result)
    limit = read_bandwidth() * 1e9 / sum(p.numel() * 4 for p in plain.parameters())
    base = statistics.median(d for _, d in found["transformers"])
    print(f"{args.threads} threads; limit of float32 decoding {limit:.1f} tokens/s")
    for name, results in found.items():
        prefill = statistics.median(p for p, _ in results)
        decode = [d for _, d in results]
        middle = statistics.median(decode)
        print(f"{name:14} prefill {prefill:6.0f}  decode {middle:5.1f} (best {max(decode):5.1f}) tokens/s, "
              f"{middle / base:.2f} x transformers, {middle / limit:.0%} of the limit")  # fmt: skip


if __name__ == "__main__":
    main()
