"""InternVL-14B: its texts and pictures as published, C and G, the matching head, refusals, whose folder it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.internvl import small_contrastive
from polymodal.check.randomise import fill
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.internvl import SYSTEM

RED = pm.image(Pillow.new("RGB", (80, 60), "red"))


def folder(place: Path, architecture: str = "InternVL_G", **more: Any) -> pm.Model:
    size = byte_tokenizer(place, ("<unk>", "<s>", "</s>"), bos="<s>", eos="</s>", pad="<unk>")
    config = small_contrastive(architecture, size) | more
    write_config(place, config=config)
    model_spec = SYSTEM.formats[1].model_spec(config)
    module = model_spec.build()
    fill(module)
    write_weights(place, module, model_spec.keys[0])
    return pm.load(place)


def test_texts_are_summarised_and_pictures_cut_at_their_middle(tmp_path: Path) -> None:
    model = folder(tmp_path)
    batch = model.processor(images=[RED], text=["a dog", "a very red picture"])
    words = [model.processor.tokenizer.decode(row.tolist(), skip_special=False) for row in batch["input_ids"]]
    assert words == ["<s>summarize:a dog</s>" + "<unk>" * 13, "<s>summarize:a very red picture</s>"]
    assert batch["pixel_values"].shape == (1, 3, 56, 56)
    long = model.processor(text=["x" * 200])["input_ids"]
    assert long.shape == (1, 80) and long[0, -1] == model.processor.tokenizer.special("</s>")


def test_padding_says_nothing(tmp_path: Path) -> None:
    model = folder(tmp_path)
    alone, together = model.processor(text=["a dog"]), model.processor(text=["a dog", "a very red picture"])
    one, two = model.features(**alone)["text"], model.features(**together)["text"]
    torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.features(input_ids=together["input_ids"])["text"], two)
    vectors = model.embed([pm.text("a dog"), pm.text("a very red picture"), RED])
    torch.testing.assert_close(torch.as_tensor(vectors[:2]), torch.nn.functional.normalize(two), atol=1e-5, rtol=0)


def test_c_reads_the_tower_and_g_the_queries_too(tmp_path: Path) -> None:
    found = {}
    for name in ("InternVL_C", "InternVL_G", "InternVLModel"):
        (tmp_path / name).mkdir()
        model = folder(tmp_path / name, name)
        assert model.system.id == "internvl"
        found[name] = model.features(**model.processor(images=[RED]))["image"]
    assert torch.equal(found["InternVL_C"], found["InternVLModel"])
    assert (found["InternVL_C"] - found["InternVL_G"]).abs().max() > 1e-2


def test_the_matching_head_judges_pairs(tmp_path: Path) -> None:
    model = folder(tmp_path)
    pair = model.processor(images=[RED, RED], text=["a dog", "a very red picture"])
    logits = model.logits(**pair, use_image_text_matching_head=True)
    assert logits.shape == (2, 2)
    one = model.processor(images=[RED], text=["a dog"])
    torch.testing.assert_close(model.logits(**one, use_image_text_matching_head=True)[0], logits[0], atol=1e-5, rtol=0)


def test_what_is_not_taken_is_named(tmp_path: Path) -> None:
    model = folder(tmp_path)
    with pytest.raises(PromptError, match="expected pixel_values or input_ids, found neither"):
        model.module.features()
    with pytest.raises(ConfigError, match=r"does not know the inputs \['audio_values'\]"):
        model.module.features(audio_values=torch.zeros(1))
    with pytest.raises(PromptError, match="this model takes pictures and text; found video"):
        model.processor([{"role": "user", "content": [pm.video(b"x")]}])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_qllama_lora": 16}, "use_qllama_lora 16 is not supported"),
        ({"num_query_token": 0}, "expected one query at least, found 0"),
        ({"attn_pool_num_heads": 5}, "width 48 must be a multiple of its 5 heads"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[1].model_spec(small_contrastive("InternVL_G", 300) | change).build()


def test_the_library_s_internvl_is_another(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"]})
    )
    with pytest.raises(Exception, match="InternVLForConditionalGeneration"):
        pm.load(tmp_path)
