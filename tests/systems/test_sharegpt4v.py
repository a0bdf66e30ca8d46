"""ShareGPT4V: told from LLaVA-1.5 by its class, the tower of its own wherever it lies, Vicuna's system sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava
from polymodal.check.evidence.sharegpt4v import EVIDENCE, TINY
from polymodal.data.chat_formats import VICUNA_SYSTEM
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, WeightsError
from polymodal.systems.sharegpt4v import SYSTEM

pytest.importorskip("transformers")


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as official training leaves it, the tower in its folder `vision_tower`, and what the oracle said."""
    return tmp_path, EVIDENCE.cases[0].make(tmp_path)


def reconfigured(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def test_the_class_says_which_system_it_is(checkpoint):
    folder, _ = checkpoint
    assert pm.load(folder).system.id == "sharegpt4v"
    reconfigured(folder, model_type="llava", architectures=["LlavaLlamaForCausalLM"])
    assert pm.load(folder).system.id == "llava-1.5"


def test_the_checkpoint_s_own_tower_counts_before_the_one_it_started_from(checkpoint):
    folder, expected = checkpoint
    shutil.copytree(folder / "vision_tower", folder / "start")
    weights = load_file(folder / "start" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "start" / "model.safetensors")
    reconfigured(folder, mm_vision_tower=str(folder / "start"))
    torch.testing.assert_close(pm.load(folder).logits(**expected.inputs), expected.logits, atol=1e-4, rtol=0)


def test_the_torch_file_that_official_training_writes_is_read(checkpoint):
    folder, expected = checkpoint
    place = folder / "vision_tower" / "model.safetensors"
    weights = {f"vision_model.{name.removeprefix('vision_model.')}": x for name, x in load_file(place).items()}
    torch.save(weights, place.with_name("pytorch_model.bin"))
    place.unlink()
    torch.testing.assert_close(pm.load(folder).logits(**expected.inputs), expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"mm_vision_tower": "QuanSun/EVA-CLIP"}, ConfigError, r"'QuanSun/EVA-CLIP' is neither .* Lin-Chen/ShareGPT4V"),
        ({"architectures": None}, ConfigError, r"architectures \(\) names no official class"),
        ({"mm_projector_type": "identity"}, ConfigError, "mm_projector_type 'identity' is not supported"),
        ({"mm_vision_select_feature": "cls"}, ConfigError, "mm_vision_select_feature 'cls' is not known"),
        (
            {"mm_vision_tower": "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12"},
            WeightsError,
            "leaves out its vision tower 'Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12'; fetch that",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(checkpoint, changes, error, words):
    folder, _ = checkpoint
    reconfigured(folder, **changes)
    (folder / "vision_tower").rename(folder / "elsewhere")
    with pytest.raises(error, match=words):
        pm.load(folder)


def test_a_question_is_written_as_in_training(tmp_path):
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = llava.small(size, tmp_path / "vision_tower", **TINY, image_aspect_ratio="pad")
    write_config(tmp_path, config=config)
    model_spec = SYSTEM.formats[0].model_spec(config)
    write_weights(tmp_path, model_spec.build(), model_spec.keys[0])
    processor = pm.load(tmp_path).processor
    message = Message(role="user", parts=(pm.image(Pillow.new("RGB", (61, 30))), Text("Q")))
    ids = processor([message], generate=True)["input_ids"][0]
    text = processor.tokenizer.decode(ids[ids >= 0].tolist(), skip_special=False)
    assert text == f"<s>{VICUNA_SYSTEM} USER: \nQ ASSISTANT:" and int((ids == -200).sum()) == 16
