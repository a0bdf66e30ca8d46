"""Tiny models of every way of fusion, and for each two batches that differ in what they hold (one without pictures)."""

from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import randomise
from polymodal.check.evidence import chameleon, clip, flamingo, llava_1_5, mplug_owl2
from polymodal.systems import get

KINDS = ("A", "B", "C", "D", "pair")


def build(kind: str) -> nn.Module:
    """The same random weights in every process."""
    configs = {
        "A": ("flamingo", lambda: flamingo.small(32)),
        "B": ("mplug-owl2", lambda: mplug_owl2.small(40)),
        "C": ("llava-1.5", lambda: llava_1_5.small(40, 39)),
        "D": ("chameleon", lambda: chameleon.small(40, 39)),
        "pair": ("clip", lambda: clip.tiny(40, 39)),
    }
    system, config = configs[kind]
    torch.manual_seed(0)
    model = get(system).formats[0].model_spec(config()).build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(randomise.tensor(name, tuple(parameter.shape)))
    return model


def ids(*row: int) -> Tensor:
    return torch.tensor([row])


def batches(kind: str) -> list[dict[str, Any]]:
    """One batch for each of two processes."""
    generator = torch.Generator().manual_seed(1)

    def pixels(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    text = ids(3, 4, 5, 6, 7, 8)
    if kind == "A":
        seen = ids(1, 2, 5, 6, 7, 8)
        return [{"input_ids": seen, "labels": seen, "vision_x": pixels(1, 1, 1, 3, 64, 64)},
                {"input_ids": text, "labels": text, "vision_x": torch.zeros(1, 1, 1, 3, 64, 64)}]  # fmt: skip
    if kind == "pair":
        rows = torch.tensor([[3, 4, 39], [5, 6, 39]])
        return [{"input_ids": rows + shift * (rows < 39), "pixel_values": pixels(2, 3, 32, 32), "return_loss": True}
                for shift in (0, 2)]  # fmt: skip
    values, size, count = {"B": ("images", 56, 9), "C": ("pixel_values", 56, 16), "D": ("pixel_values", 16, 16)}[kind]
    place = {"B": mplug_owl2.IMAGE, "C": 39, "D": 39}[kind]
    seen = ids(1, *[place] * count, 5, 6, 7)
    labels = torch.where(seen == place, -100, seen)
    return [{"input_ids": seen, "labels": labels, values: pixels(1, 3, size, size)},
            {"input_ids": text, "labels": text, values: torch.zeros(1, 3, size, size),
             "item_counts": {"image": torch.tensor([0])}, "dummy_modalities": ("image",)}]  # fmt: skip
