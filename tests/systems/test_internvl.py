"""InternVL-Chat: the prompt, tiles, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.evidence.internvl import SPECIALS, small
from polymodal.connectors.shuffle_mlp import ShuffleMLPConfig
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.internvl import SYSTEM
from polymodal.systems.internvl.checkpoint import SYSTEM_WORDS

CONTEXT = SPECIALS.index("<IMG_CONTEXT>")


def folder_of(path: Path, **changes: Any) -> Path:
    size = byte_tokenizer(path, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
    config = small(size, CONTEXT) | changes
    write_config(path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    writer(path, spec)(spec.build())
    return path


def test_the_prompt_of_several_turns(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    square, wide = (pm.image(Pillow.new("RGB", size)) for size in ((56, 56), (168, 56)))
    talk = [
        Message(role="user", parts=(square, wide, Text("What?"))),
        Message(role="assistant", parts=(Text("Dogs."),)),
        Message(role="user", parts=(Text("And now?"),)),
    ]
    batch = model.processor(talk, generate=True)
    pictures = [f"<img>{'<IMG_CONTEXT>' * 4 * tiles}</img>\n" for tiles in (1, 4)]
    assert model.processor.tokenizer.decode(batch["input_ids"][0].tolist(), skip_special=False) == (
        f"<s><|im_start|>system\n{SYSTEM_WORDS}<|im_end|><|im_start|>user\n{''.join(pictures)}What?<|im_end|>"
        "<|im_start|>assistant\nDogs.<|im_end|><|im_start|>user\nAnd now?<|im_end|><|im_start|>assistant\n"
    )
    assert batch["tile_counts"] == (1, 4) and batch["pixel_values"].shape == (5, 3, 56, 56)
    assert [len(item) for item in model.features(**batch)["image"]] == [4, 16]


def test_without_dynamic_tiles_a_picture_is_one(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path, dynamic_image_size=False))
    batch = model.processor([Message(role="user", parts=(pm.image(Pillow.new("RGB", (168, 56))),))])
    assert batch["tile_counts"] == (1,)


@pytest.mark.parametrize("swapped", [False, True])
def test_neighbours_are_joined_as_published(swapped: bool) -> None:
    """Two views and transpositions of the published code; "v1" lacks the last one."""
    side, width = 4, 3
    x = torch.arange(2 * side * side * width, dtype=torch.float32).reshape(2, side, side, width)
    expected = x.view(2, side, side // 2, width * 2).permute(0, 2, 1, 3).reshape(2, side // 2, side // 2, width * 4)
    expected = expected if swapped else expected.permute(0, 2, 1, 3)
    found = ShuffleMLPConfig(swapped=swapped).build(width, 8).joined(x.flatten(1, 2))
    assert torch.equal(found, expected.reshape(2, 4, 12))


def test_tiles_that_do_not_add_up_are_named() -> None:
    connector = ShuffleMLPConfig().build(3, 8)
    with pytest.raises(PromptError, match="pictures of 3 tiles are announced, found 2"):
        connector(torch.zeros(2, 16, 3), tile_counts=(1, 2))
    with pytest.raises(ConfigError, match="9 features are no square grid whose side 2 divides"):
        connector(torch.zeros(2, 9, 3))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"llm_config": {"architectures": ["Phi3ForCausalLM"]}},
            "llm_config.architectures: expected InternLM2ForCausalLM",
        ),
        ({"pad2square": True}, "pad2square True is not supported"),
        ({"use_llm_lora": 16}, "use_llm_lora 16 is not supported"),
        ({"downsample_ratio": 0.4}, "downsample_ratio: expected one over a whole number, found 0.4"),
        ({"ps_version": "v3"}, "ps_version: expected 'v1' or 'v2', found 'v3'"),
        (
            {"vision_config": {"norm_type": "batch_norm"}},
            "norm_type: expected rms_norm or layer_norm, found 'batch_norm'",
        ),
    ],
)
def test_options_that_are_not_supported_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(small(40, 3) | changes)


def test_a_template_and_a_placeholder_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="template: expected internlm2-chat or Hermes-2, found 'phi3-chat'"):
        pm.load(folder_of(tmp_path, template="phi3-chat"))
    with pytest.raises(ConfigError, match=r"has <IMG_CONTEXT> at 7, the model expects 5; say img_context"):
        pm.load(folder_of(tmp_path, img_context_token_id=5))
