"""A forward pass reads nothing back from the device: on the meta device every such read is an error.

What lies on the host stays there (counts of items and of tokens); all tensors of a batch lie on the device.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_packed_rows import conversations, tensors
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from polymodal.data.packing import pack
from polymodal.data.processor import HOST_FACTS
from polymodal.nn.mask import MaskSpec
from tiny_folders import FOLDERS, tiny

READS = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique_consecutive"}


class NoReads(TorchDispatchMode):
    """Raises where a value is read, or copied between host and device: both make the host wait for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        elsewhere = any(isinstance(each, Tensor) and each.device.type != "cpu" for each in args)
        assert name not in READS or not elsewhere, f"{name} reads a tensor back to the host"
        found = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_") and isinstance(args[0], Tensor) and args[0].dim():
            asked = (kwargs or {}).get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            given = args[1] if name == "copy_" else args[0]
            assert found.device == given.device or asked, f"{name} copies {list(given.shape)} from {given.device}"
        return found


def on_meta(batch: dict[str, Any], stays: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        name: x.to("meta") if isinstance(x, Tensor) and name not in stays else x for name, x in tensors(batch).items()
    }


@pytest.mark.parametrize("name", FOLDERS)
def test_forward_of_a_processors_batch_reads_nothing(name: str, tmp_path: Path) -> None:
    model = tiny(name, tmp_path)
    rows = [model.processor.encode(talk) for talk in conversations(name)]
    batches = {
        "a text": model.processor.collate([rows[1]], padding="right"),
        "padded texts": model.processor.collate([rows[1], rows[-1]], padding="left"),
        "a row with a picture": model.processor.collate([rows[0]], padding="right"),
        "padded rows": model.processor.collate(rows, padding="right"),
        "packed rows": model.processor.collate(pack(rows, 2 * max(map(len, rows))), padding="right"),
    }
    assert batches["a text"]["attention_mask"] is batches["a row with a picture"]["attention_mask"] is None
    module = model.module.to("meta")
    # A grid decides shapes: it is read by the encoder, so it is left on the host where nothing may be read.
    stays = ("image_grid_thw",)
    for batch in batches.values():
        given = on_meta(batch, stays)
        module(**given)  # small tables are copied to the device once
        with NoReads():
            assert module(**given).logits.shape[:2] == given["input_ids"].shape


@pytest.mark.parametrize("name", ["llava-1.5", "openflamingo"])
def test_a_step_with_a_cache_reads_nothing(name: str, tmp_path: Path) -> None:
    module = tiny(name, tmp_path).module.to("meta")
    cache = module.backbone.new_cache(2, 12)
    mask = torch.ones(2, 9, dtype=torch.bool, device="meta")
    x, positions = torch.zeros(2, 1, module.backbone.config.width, device="meta"), torch.zeros(2, 1).long().to("meta")
    module.backbone(x, positions)  # small tables are copied to the device once
    with NoReads():
        for length in range(3):
            for rule in (None, MaskSpec(attention_mask=mask[:, : length + 1])):
                module.backbone(x, positions, rule, cache=cache)
                cache.truncate(length)
            module.backbone(x, positions, cache=cache)


def test_every_path_is_the_same_on_the_host(tmp_path: Path) -> None:
    """What a processor says about its batch changes no number, and what is wrong on the host is found there."""
    model = tiny("mplug-owl2", tmp_path)
    batch = tensors(model.processor(conversations("mplug-owl2")))
    plain = {name: value for name, value in batch.items() if name not in HOST_FACTS}
    whole = {**batch, "token_type_counts": (1, 2)}
    with torch.no_grad():
        expected = model.module(**batch).logits
        assert torch.equal(model.module(**plain).logits, expected)
        assert torch.equal(model.module(**whole).logits, expected)
