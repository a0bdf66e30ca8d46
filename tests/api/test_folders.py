"""What a folder, a path and a hub id stand for; saving what was published and loading it again."""

import json
from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.errors import ConfigError, PolymodalError, UnknownName, WeightsError
from polymodal.weights import hub

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"model_type": "llama", **VISION}


@pytest.fixture
def llava(tmp_path):
    """A tiny published LLaVA with tokenizer and preprocessor."""
    folder = tmp_path / "published"
    folder.mkdir()
    size = byte_tokenizer(folder, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
    config = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 2,
              "vision_config": {**VISION, "image_size": 28, "patch_size": 14},
              "text_config": {**TEXT, "vocab_size": size}}  # fmt: skip
    sides = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    write_config(folder, config=config, preprocessor_config=sides, generation_config={"eos_token_id": 1})
    model_spec = systems.get("llava-1.5").formats[0].model_spec(config)
    module = model_spec.build()
    randomise.fill(module)
    write_weights(folder, module, model_spec.keys[0])
    (folder / "more").mkdir()
    (folder / "more" / "words.txt").write_text("a\n")
    return folder


def test_what_was_published_is_saved_whole(llava, tmp_path):
    model = pm.load(llava)
    with torch.no_grad():
        model.module.backbone.norm.weight.mul_(1.5)
    saved = model.save(tmp_path / "saved")
    back = pm.load(saved)
    assert back.name == model.name == "llava-1.5:published"
    picture = pm.image("examples/cat.jpg")
    assert back.chat(picture, "What?", max_tokens=6).text == model.chat(picture, "What?", max_tokens=6).text
    assert torch.equal(back.module.backbone.norm.weight, model.module.backbone.norm.weight)
    assert (saved / "more" / "words.txt").is_file() and not list(saved.glob("*.index.json"))
    assert pm.pull(saved) == []
    # Also over the folder it was loaded from, and at another dtype.
    back.save(saved)
    assert pm.load(saved, dtype="bfloat16").module.backbone.norm.weight.dtype == torch.bfloat16
    record = json.loads((saved / "polymodal.json").read_text())
    (saved / "polymodal.json").write_text(json.dumps({**record, "layout": "of another"}))
    with pytest.raises(WeightsError, match=r"format that llava-1.5 does not read: 'of another'"):
        pm.load(saved)


def test_look_says_what_a_folder_is(llava, tmp_path):
    system, variant = pm.look(llava)
    assert (system.id, variant.name, variant.config["image_token_index"]) == ("llava-1.5", "published", 2)
    assert pm.look("llava:1.5-7b")[1].name == "7b"
    saved = pm.load(llava).save(tmp_path / "saved")
    assert pm.look(saved)[1].name == "published"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "examples/none", "~/model", "a/b/c", "nowhere/"])
def test_a_path_at_which_there_is_nothing(name):
    for call in (pm.load, pm.pull, pm.look):
        with pytest.raises(UnknownName, match=f"no folder or weights file at {name}"):
            call(name)


def test_a_repository_of_the_hub(llava, monkeypatch):
    asked = []

    def fetch(name, revision, progress=None, offline=False, check=None):
        asked.append((name, revision, offline))
        check(llava / "config.json")
        return llava

    monkeypatch.setattr(hub, "fetch_repository", fetch)
    model = pm.load("lab/Tiny-llava.1@abc123")
    assert model.name == "llava-1.5:Tiny-llava.1" and model.can[0] == "chat"
    assert pm.pull("lab/tiny") == [llava]
    assert pm.look("lab/tiny")[1].name == "tiny"
    assert asked == [("lab/Tiny-llava.1", "abc123", False), ("lab/tiny", "main", False), ("lab/tiny", "main", True)]
    (llava / "config.json").write_text('{"model_type": "tapir"}')
    with pytest.raises(WeightsError, match=r"hub lab/tiny@main matches no known checkpoint format.*tapir"):
        pm.load("lab/tiny")


@pytest.mark.parametrize("make", [pm.image, pm.audio, pm.video])
def test_media_of_nothing_we_read(llava, make):
    with pytest.raises(
        PolymodalError, match=r"bytes of a file, found int|cannot read (audio|video); it takes text, image"
    ):
        pm.load(llava).chat(make(7), "What?", max_tokens=1)


def test_a_model_says_what_it_can_do(llava):
    model = pm.load(llava)
    assert model.can == ("chat", "logits", "features", "generate")
    with pytest.raises(ConfigError, match="cannot embed; it takes text, image and offers chat, logits"):
        model.embed([Path("examples/cat.jpg")])
    (llava / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"cannot chat; it takes .* has no tokenizer files.*tokenizer.model"):
        pm.load(llava).chat("Hello")
