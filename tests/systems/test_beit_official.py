"""Official BEiT files: what their shapes tell, and the outputs of the official code."""

import json
from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.check.fixture import fixture_case, read
from polymodal.systems.beit import official as beit_official


@pytest.mark.parametrize(("kind", "side", "heads"), [("masked", 20, 3), ("patches", 20, 3), ("class", 20, 3)])
def test_shapes_tell_the_config(kind: str, side: int, heads: int) -> None:
    shapes = json.loads(read(f"beit_{kind}")[0]["shapes"])
    found = beit_official.infer(shapes)
    assert found is not None
    assert (found["image_size"], found["patch_size"], found["num_attention_heads"]) == ([side, side], [5, 5], heads)
    assert found["use_mask_token"] is (kind == "masked") and found["use_mean_pooling"] is (kind != "class")
    for missing in ("cls_token", "blocks.0.gamma_1"):
        assert beit_official.infer({name: x for name, x in shapes.items() if name != missing}) is None


@pytest.mark.parametrize("kind", ["masked", "patches", "class"])
def test_outputs_are_those_of_the_official_code(kind: str, tmp_path: Path) -> None:
    expected = fixture_case("", f"beit_{kind}").make(tmp_path)
    model = pm.load(tmp_path / "beit.pth")
    assert model.system.id == "beit"
    torch.testing.assert_close(model.logits(**expected.inputs), expected.logits, atol=1e-4, rtol=0)
