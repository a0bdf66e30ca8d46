"""A low-rank path on any linear or of any system of the catalogue is saved so that it loads again, or refused before
anything is written."""

import re
from pathlib import Path

import pytest
import torch
from test_flows import CHATS

import polymodal as pm
from headline_folders import captured
from polymodal.errors import WeightsError
from polymodal.nn.lora import apply_lora, lora_changes, remove_lora

SYSTEMS = (*CHATS, "beit", "clip", "vit")
# What no adapter file can hold: an in_proj_weight is a parameter of its attention, not a linear; convolutions.
PARAMETER, CONVOLUTION = "which is no linear that an adapter file could name", "an adapter cannot go through"
REFUSED = {
    "chameleon": {CONVOLUTION},
    "llama_adapter_v2": {PARAMETER},
    "openflamingo": {PARAMETER},
    "qwen2_vl": {CONVOLUTION},
    "video_llama": {PARAMETER},
}


def kinds(module: torch.nn.Module) -> dict[str, str]:
    """One linear of each kind: its path with numbers left out -> its path."""
    linears = [path for path, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    return {re.sub(r"\d+", "N", path): path for path in linears}


def deltas(module: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """What each adapter adds to its weight, where it adds anything."""
    found = {path: change.scale * change.b @ change.a for path, change in lora_changes(module, name).items()}
    return {path: delta.detach() for path, delta in found.items() if delta.any()}


@pytest.mark.parametrize("stem", SYSTEMS)
def test_every_linear_round_trips_or_is_refused(stem: str, tmp_path: Path) -> None:
    model = pm.load(captured(stem, tmp_path / stem))
    generator, refused = torch.Generator().manual_seed(0), {}
    for number, path in enumerate(kinds(model.module).values()):
        apply_lora(model.module, [path], 2, 4)
        with torch.no_grad():
            (change,) = lora_changes(model.module, "default").values()
            change.b.copy_(torch.randn(change.b.shape, generator=generator))
        wanted, folder = deltas(model.module, "default"), tmp_path / str(number)
        try:
            model.save_adapter(folder)
        except WeightsError as problem:
            refused[path] = str(problem)
            assert not folder.exists()
        remove_lora(model.module, "default")
        if path not in refused:
            model.attach(folder)
            (attached,) = model.adapters.attached
            found = deltas(model.module, attached.name)
            assert found.keys() == wanted.keys() == {path}
            torch.testing.assert_close(found[path], wanted[path])
            model.detach()
    reasons = {reason for reason in (PARAMETER, CONVOLUTION) for each in refused.values() if reason in each}
    assert reasons == REFUSED.get(stem, set()), refused
    other = [each for each in refused.values() if not any(reason in each for reason in reasons)]
    assert not other
    assert len(refused) < number
