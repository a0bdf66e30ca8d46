"""The official LLaVA layout by what its config says of tokens: where pictures stand, what is written around them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal import systems
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava, llava_1_6

LAYOUTS: dict[str, dict[str, Any]] = {
    "llava": {},
    "llava-1.5": {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"},
    "llava-1.6": llava_1_6.OFFICIAL,
}
PICTURE = pm.image(torch.zeros(40, 40, 3, dtype=torch.uint8).numpy())
OWN = ("{{ bos_token }}{% for m in messages %}USER: {% for c in m.content %}{% if c.type == 'image' %}<image>\n"
       "{% else %}{{ c.text }}{% endif %}{% endfor %} {% endfor %}ASSISTANT:")  # fmt: skip


def loaded(folder: Path, name: str, chat_template: str | None = None, **more: Any) -> Any:
    """A tiny folder of the official layout of a LLaVA."""
    size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    if chat_template is not None:
        said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        write_config(folder, tokenizer_config={**said, "chat_template": chat_template})
    added = 3 if more.get("mm_use_im_start_end") and more.get("mm_use_im_patch_token", True) else 2
    config = llava.small(size + (added if more.get("mm_use_im_start_end") else 0), folder / "clip")
    del config["mm_use_im_start_end"]  # false where nothing is said, as in the official code
    config |= {**LAYOUTS[name], **more}
    write_config(folder, config=config, generation_config={"eos_token_id": 2})
    spec = next(each for each in systems.get(name).formats if each.name.startswith("official")).model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


def prompt(model: Any) -> list[int]:
    batch = model.processor([{"role": "user", "content": [PICTURE, "Q"]}], generate=True)
    return batch["input_ids"][0].tolist()


@pytest.mark.parametrize("chat_template", [None, OWN], ids=["without chat template", "with its own"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_pictures_stand_at_the_official_id_by_default(name: str, chat_template: str | None, tmp_path: Path) -> None:
    model = loaded(tmp_path, name, chat_template)
    assert model.system.id == name
    ids = prompt(model)
    first, count = ids.index(-200), ids.count(-200)
    assert ids[first : first + count] == [-200] * count
    text = model.processor.tokenizer.decode([id for id in ids if id >= 0], skip_special=False)
    assert text.startswith("<s>") and text.endswith("USER: \nQ ASSISTANT:")
    assert isinstance(model.chat(PICTURE, "Q", max_tokens=2).text, str)


@pytest.mark.parametrize("patch", [True, False])
def test_marks_around_a_picture(patch: bool, tmp_path: Path) -> None:
    """`<im_patch>` is a word of its own unless `mm_use_im_patch_token` says otherwise."""
    model = loaded(tmp_path, "llava", mm_use_im_start_end=True, mm_use_im_patch_token=patch)
    special = model.processor.tokenizer.special
    ids = prompt(model)
    first = ids.index(special("<im_start>"))
    size = model.module.backbone.config.vocab_size
    assert special("<im_end>") == size - 1
    mark = size - 3 if patch else -200
    assert ids[first : first + 18] == [special("<im_start>"), *[mark] * 16, special("<im_end>")]
    assert isinstance(model.chat(PICTURE, "Q", max_tokens=2).text, str)
