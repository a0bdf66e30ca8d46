"""A published folder, loaded and run by us and by transformers in one run: load, picture and prompt, new tokens.

    python benchmarks/published.py [--threads 2] [--rounds 3]

The folder is a LLaVA-1.5 of 180 M random weights (CLIP of 12 layers at 224 pixels, LLaMA of 24 layers), saved by
transformers; both sides read the same files and answer the same tensors greedily: one picture of 256 tokens, 32 words,
48 new tokens.  Medians are printed; ids must be equal.  Needs the extra `parity`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch

import polymodal as pm

IMAGE, NEW = 8000, 48


def folder() -> str:
    import transformers

    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 512, "intermediate_size": 2048,
                       "num_hidden_layers": 12, "num_attention_heads": 8, "image_size": 224, "patch_size": 14},
        text_config={"model_type": "llama", "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 20,
                     "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 8064},
        image_token_index=IMAGE,
    )  # fmt: skip
    torch.manual_seed(0)
    place = tempfile.mkdtemp()
    transformers.LlavaForConditionalGeneration(config).save_pretrained(place)
    return place


def batch() -> dict[str, Any]:
    ids = [*range(100, 108), *[IMAGE] * 256, *range(200, 224)]
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            "pixel_values": torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))}  # fmt: skip


def timed(model: Any, given: dict[str, Any], new: int) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    ids = model.generate(**given, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)
    return time.perf_counter() - start, ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import transformers

    place, given = folder(), batch()
    loaders = {
        "transformers": lambda: transformers.LlavaForConditionalGeneration.from_pretrained(place).eval(),
        "ours": lambda: pm.load(place),
    }
    models, load = {}, {name: [] for name in loaders}
    for _ in range(args.rounds):
        for name, make in loaders.items():
            start = time.perf_counter()
            models[name] = make()
            load[name].append(time.perf_counter() - start)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
    ids = {}
    with torch.inference_mode():
        for round_ in range(args.rounds + 1):
            for name, model in models.items():
                first, _ = timed(model, given, 1)
                whole, ids[name] = timed(model, given, NEW)
                if round_:  # the first round warms up
                    found[name].append((first, (NEW - 1) / (whole - first)))
    equal = torch.equal(ids["ours"], ids["transformers"])
    print(f"{args.threads} threads; ids equal: {equal}")
    base = {}
    for name in loaders:
        figures = statistics.median(load[name]), *(statistics.median(each) for each in zip(*found[name], strict=True))
        base.setdefault("x", figures)
        ratios = base["x"][0] / figures[0], base["x"][1] / figures[1], figures[2] / base["x"][2]
        beside = ", ".join(f"{ratio:.2f} x" for ratio in ratios)
        print(f"{name:14} load {figures[0]:.2f} s, picture and prompt {figures[1]:.2f} s, "
              f"then {figures[2]:.1f} tokens/s  ({beside})")  # fmt: skip


if __name__ == "__main__":
    main()
