"""MoE-LLaVA: its prompt, pictures for either tower, which experts a config may have, and their loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.moe_llava import IMAGE, tiny
from polymodal.data.chat_formats import VICUNA_SYSTEM
from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.moe import MoE, RouterLogits
from polymodal.systems.moe_llava import SYSTEM

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (30, 61, 3), dtype=np.uint8))
TALK = [
    {"role": "user", "content": [pm.image(PICTURE), "What is it?"]},
    {"role": "assistant", "content": "Noise."},
    {"role": "user", "content": "Why?"},
]


def written(folder: Path, **changes) -> pm.Model:
    size = byte_tokenizer(folder, ["<|endoftext|>"], eos="<|endoftext|>", pad="<|endoftext|>")
    config = {**tiny(size, folder / "clip"), **changes}
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


def test_turns_are_written_as_in_training(tmp_path: Path) -> None:
    model = written(tmp_path)
    ids = model.processor(TALK, generate=True)["input_ids"][0]
    assert int((ids == IMAGE).sum()) == 16
    text = model.processor.tokenizer.decode(ids[ids >= 0].tolist(), skip_special=False)
    assert text == (f"{VICUNA_SYSTEM} USER: \nWhat is it? ASSISTANT: Noise.<|endoftext|>USER: Why? ASSISTANT:")
    assert ids[: (ids == IMAGE).nonzero()[0]].tolist() == model.processor.tokenizer.encode(f"{VICUNA_SYSTEM} USER: ")
    assert model.chat(TALK, max_tokens=2).tokens["image"] == 16


@pytest.mark.parametrize("tower", ["CLIP", "Siglip"])
def test_pictures_are_padded_with_the_mean_colour_of_their_tower(tower: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    mean = (0.48145466, 0.4578275, 0.40821073) if tower == "CLIP" else (0.5, 0.5, 0.5)
    square = Pillow.new("RGB", (61, 61), tuple(int(each * 255) for each in mean))
    square.paste(PICTURE, (0, 15))
    if tower == "CLIP":
        theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    else:
        theirs = transformers.SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=3)
        kind = {"model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 96, "image_size": 56,
                "num_attention_heads": 4, "num_hidden_layers": 3, "patch_size": 14}  # fmt: skip
        (tmp_path / "siglip").mkdir()
        write_config(tmp_path / "siglip", config=kind)
    changes = {} if tower == "CLIP" else {"mm_image_tower": str(tmp_path / "siglip")}
    found = written(tmp_path, **changes).processor(TALK[:1])["pixel_values"]
    assert (found - theirs(square, return_tensors="pt")["pixel_values"]).abs().max() < 1e-5


def test_experts_stand_where_the_config_says(tmp_path: Path) -> None:
    moe = {"moe_layers_idx": [1], "num_experts": [3], "top_k_experts": 2, "eval_capacity_factor": 1.5}
    blocks = written(tmp_path, moe=moe).module.backbone.blocks
    assert [isinstance(block.mlp, MoE) for block in blocks] == [False, True] and len(blocks[1].mlp.experts) == 3
    dense = written(tmp_path, moe={**moe, "moe_enable": False})
    assert dense.module.moe is None


def test_the_loss_is_deepspeed_s(tmp_path: Path) -> None:
    """l_aux of each layer: the mean over experts of (mean probability * share of first choices) * experts ** 2."""
    moe = {"moe_layers_idx": [0, 1], "num_experts": [4, 4], "eval_capacity_factor": 2.0, "router_aux_loss_coef": 0.01}
    module = written(tmp_path, moe=moe).module
    ids = torch.tensor([[5, 9, 40, 7, 200, 11]])
    gates = RouterLogits()
    module.run_backbone({"input_ids": ids}, {}, None, gates)
    wanted = torch.zeros(())
    for layer in gates:
        chances = layer.softmax(-1)
        first = torch.nn.functional.one_hot(chances.argmax(-1), 4).float()
        wanted += (chances.mean(0) * first.mean(0)).mean() * 4 * 4
    found = module(input_ids=ids, labels=ids).losses["load_balance"]
    torch.testing.assert_close(found, 0.01 * wanted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "moe_llava_qwen"}, "model_type 'moe_llava_qwen' is not supported; expected moe_llava_stablelm"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end and mm_video_tower are not supported"),
        ({"mm_image_tower": "LanguageBind_Image"}, "mm_vision_tower 'LanguageBind_Image' is neither"),
        ({"moe": {"moe_layers_idx": [0], "num_experts": [4], "eval_capacity_factor": 1.0}},
         "eval_capacity_factor 1 lets 4 experts drop tokens of a batch, which is not supported; expected 2 at least"),
        ({"moe": {"moe_layers_idx": [0], "num_experts": [4], "top_k_experts": 1}}, "with top_k_experts 1 is not"),
        ({"moe": {"moe_layers_idx": [7], "num_experts": [4], "eval_capacity_factor": 2.0}}, "do not fit 2 layers"),
        ({"image_projector_type": "qformer4_36"}, "'qformer4_36' is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_name(changes: dict, words: str, tmp_path: Path) -> None:
    written(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config=config | changes)
    with pytest.raises(ConfigError, match=words):
        pm.load(tmp_path)


def test_a_checkpoint_without_its_tower_says_so(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    written(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file({name: x for name, x in load_file(weights).items() if "image_tower" not in name}, weights)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config=config | {"mm_image_tower": "openai/clip-vit-large-patch14-336"})
    with pytest.raises(WeightsError, match="leaves out its vision tower 'openai/clip-vit-large-patch14-336'"):
        pm.load(tmp_path)
