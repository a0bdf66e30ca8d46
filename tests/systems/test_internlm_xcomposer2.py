"""InternLM-XComposer2: the prompt, what the low-rank weights touch, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.evidence.internlm_xcomposer2 import SPECIALS, small
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError
from polymodal.systems.internlm_xcomposer2 import SYSTEM


def folder_of(path: Path, **changes: Any) -> Path:
    size = byte_tokenizer(path, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
    config = small(size) | changes
    write_config(path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    writer(path, spec)(spec.build())
    return path


def talk() -> list[Message]:
    picture = pm.image(Pillow.new("RGB", (30, 40)))
    return [
        Message(role="user", parts=(picture, Text("What?"))),
        Message(role="assistant", parts=(Text("Dogs."),)),
        Message(role="user", parts=(Text("And now?"),)),
    ]


def test_the_prompt_of_several_turns(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    batch = model.processor(talk(), generate=True)
    place, size = (
        batch["input_ids"][0] == model.processor.placeholders["image"],
        model.module.backbone.config.vocab_size,
    )
    assert place.sum() == 16 and bool((batch["input_ids"][0][place] == size).all())
    text = model.processor.tokenizer.decode(batch["input_ids"][0][~place].tolist(), skip_special=False)
    assert text == (
        "<s>[UNUSED_TOKEN_146]user\nWhat?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\nDogs.[UNUSED_TOKEN_145]\n"
        "[UNUSED_TOKEN_146]user\nAnd now?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n"
    )
    before = int(place.nonzero()[0])
    assert model.processor.tokenizer.decode(batch["input_ids"][0][:before].tolist(), skip_special=False) == (
        "<s>[UNUSED_TOKEN_146]user\n"
    )


def test_training_learns_the_answers_and_the_end(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    labels = model.processor(talk()[:2])["labels"][0]
    learned = model.processor.tokenizer.decode(labels[labels >= 0].tolist(), skip_special=False)
    assert learned == "Dogs.[UNUSED_TOKEN_145]</s>"


def test_query_key_and_value_share_a_matrix_after_loading_and_saving(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    model.save(tmp_path / "again")
    again = pm.load(tmp_path / "again")
    for each in (model, again):
        attention = each.module.backbone.blocks[0].attn
        assert attention.q_proj.lora_A.weight.data_ptr() == attention.v_proj.lora_A.weight.data_ptr()
    batch = model.processor(talk())
    assert torch.equal(model.logits(**batch), again.logits(**batch))


def test_the_low_rank_weights_change_pictures_alone(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    with_picture, text = model.processor(talk()[:2]), model.processor(talk()[1:2])
    before = [model.logits(**batch) for batch in (with_picture, text)]
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if name.endswith("lora_B.weight"):
                weight.fill_(0.1)
    after = [model.logits(**batch) for batch in (with_picture, text)]
    assert not torch.allclose(before[0], after[0]) and torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_size": 7}, "image_size 7 is smaller than one patch of 14"),
        ({"img_size": None}, "image_size and patch_size must be numbers, found None"),
        ({"rope_scaling": {"type": "unknown", "factor": 2.0}}, "rope scaling 'unknown' is not supported"),
    ],
)
def test_configs_that_describe_no_model_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(small(40) | changes)


def test_the_4khd_model_lacks_the_side_of_a_picture() -> None:
    config = small(40)
    del config["img_size"]
    with pytest.raises(ConfigError, match="lacks 'img_size', which is needed"):
        SYSTEM.formats[0].model_spec(config)
