"""MiniGPT-v2: the prompt of training, boxes in hundredths, the published pieces joined with EVA's positions resized."""

import json

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.template import written
from polymodal.errors import PromptError
from polymodal.systems import get
from polymodal.systems.minigpt_v2 import TEMPLATE
from polymodal.systems.minigpt_v2.boxes import TASKS, box_text, phrase_text, read_boxes, read_phrases


def test_prompt():
    told = Message(role="assistant", parts=(Text("{<1><2><3><4>}"),))
    talk = [user("[refer] the cat"), told, user("Why?")]
    expected = "<s>[INST] [refer] the cat [/INST]{<1><2><3><4>}</s><s>[INST] Why? [/INST]"
    assert written(TEMPLATE.render(talk, ask=True)) == expected
    assert TASKS["find"] + "the cat" == "[refer] the cat"


def test_boxes():
    boxes = [(0.29, 0.0, 0.58, 1.0), (0.5, 0.25, 0.75, 0.5)]
    assert [box_text(box) for box in boxes] == ["{<29><0><58><100>}", "{<50><25><75><50>}"]
    said = f"{phrase_text('two cats', boxes)} on {phrase_text('a mat', boxes[:1])}, {{<1><2>"
    assert read_boxes(said) == [*boxes, boxes[0]]
    assert read_phrases(said) == [("two cats", boxes), ("a mat", boxes[:1])]
    assert read_boxes("{<101><0><3><4>} {<1><2><3>}") == []
    with pytest.raises(PromptError, match="within"):
        box_text((0.5, 0.1, 0.4, 0.2))
    with pytest.raises(PromptError, match="one box at least"):
        phrase_text("a mat", [])


def pieces(folder, weights, config, rows):
    """EVA's own file at a grid of `rows` x `rows`, the published checkpoint, LLaMA-2 in a folder of its own."""
    eva = {name.removeprefix("visual_encoder."): x for name, x in weights.items() if name.startswith("visual_encoder")}
    eva["pos_embed"] = randomise.tensor("pos_embed", (1, rows * rows + 1, eva["pos_embed"].shape[-1]))
    torch.save(eva, folder / "eva_vit_g.pth")
    llama = "llama_model.base_model.model."
    trained = {name: x for name, x in weights.items() if ".lora_" in name or name.startswith("llama_proj")}
    torch.save({"model": trained}, folder / "checkpoint_stage3.pth")
    (folder / "llama").mkdir()
    language = {name.removeprefix(llama): x for name, x in weights.items() if name.startswith(llama)}
    language = {name: x for name, x in language.items() if ".lora_" not in name}
    torch.save(language, folder / "llama" / "pytorch_model.bin")
    (folder / "llama" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "config.json").write_text(config)


@pytest.mark.parametrize("rows", [2, 4])
def test_published_pieces(tmp_path, rows):
    about, tensors = read("minigpt_v2")
    weights = randomise.state(json.loads(about["shapes"]))
    pieces(tmp_path, weights, about["config"], rows)
    model = pm.load(tmp_path, system="minigpt-v2")
    grid = torch.load(tmp_path / "eva_vit_g.pth")["pos_embed"][0]
    table = model.module.encoders["image"].positions
    square = grid[1:].T.unflatten(1, (rows, rows))[None]
    resized = torch.nn.functional.interpolate(square, size=(4, 4), mode="bicubic", align_corners=False)
    assert torch.allclose(table[1:], resized[0].flatten(1).T, atol=1e-6) and torch.equal(table[0], grid[0])
    norm = model.module.encoders["image"].final_norm  # in no published file: as it is built
    assert bool((norm.weight == 1).all()) and not norm.bias.any()
    path = model.module.backbone.blocks[0].attn.q_proj.adapters["default"]
    assert path.scale == 2.0 and path.lora_A.weight.shape == (3, 40)
    model.save(tmp_path / "saved")
    again = pm.load(tmp_path / "saved", system="minigpt-v2")
    given = {name[3:]: x for name, x in tensors.items() if name.startswith("in.")}
    assert torch.equal(again.logits(**given), model.logits(**given))


def test_the_context_is_named():
    spec = get("minigpt-v2").formats[0].model_spec(get("minigpt-v2").variants[0].config)
    assert spec.parts[1].tokens == 256
