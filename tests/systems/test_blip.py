"""BLIP beyond its evidence: ends, cached steps, official files, and the published prompt."""

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.evidence.blip import inputs, small, tiny
from polymodal.check.fixture import store
from polymodal.errors import ConfigError
from polymodal.systems.blip import PROMPT, SYSTEM
from polymodal.systems.blip.checkpoint import ANSWER, CAPTION, MATCH

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    place = tmp_path_factory.mktemp("caption")
    config = tiny(transformers, {}, {})
    oracle = transformers.BlipForConditionalGeneration(config).eval()
    randomise.fill(oracle)
    oracle.save_pretrained(place)
    return pm.load(place), inputs(config), oracle, place


def test_rows_end_at_sep_and_are_padded_as_by_the_oracle(captioner, tmp_path) -> None:
    _, given, oracle, _ = captioner
    pixels = given["pixel_values"]
    free = oracle.generate(pixel_values=pixels, max_new_tokens=16, do_sample=False)
    # Whatever the first row writes sixth is made the end: that row stops there, others go on or not.
    oracle.config.text_config.sep_token_id = int(free[0, 6])
    wanted = oracle.generate(pixel_values=pixels, max_new_tokens=16, do_sample=False)
    oracle.save_pretrained(tmp_path)
    found = pm.load(tmp_path).generate(pixel_values=pixels, max_new_tokens=16)
    assert torch.equal(found, wanted)
    assert found.shape[1] <= free.shape[1]


@torch.no_grad()
def test_cached_steps_equal_a_full_pass(captioner) -> None:
    model, given, _, _ = captioner
    pixels = given["pixel_values"]
    ids = model.generate(pixel_values=pixels, max_new_tokens=8, eos_token_id=None)
    full = model.logits(pixel_values=pixels, input_ids=ids)
    assert torch.equal(full[:, :-1].argmax(-1), ids[:, 1:])


def test_unknown_inputs_are_refused(captioner) -> None:
    model, given, _, _ = captioner
    with pytest.raises(ConfigError, match="does not know"):
        model.logits(pixel_values=given["pixel_values"], input_ids=given["input_ids"], label=given["input_ids"])


@pytest.mark.parametrize("kind", [CAPTION, ANSWER, MATCH])
def test_an_official_file_gives_what_the_library_layout_gives(kind, tmp_path) -> None:
    """The same module written under the official names: sizes are read off the shapes, eps and heads as published."""
    config = small(kind)
    config["vision_config"] |= {"layer_norm_eps": 1e-6, "num_attention_heads": 1}
    config["text_config"] |= {"num_attention_heads": 1}
    module = SYSTEM.formats[0].model_spec(config).build().eval()
    randomise.fill(module)
    official = SYSTEM.formats[1].model_spec(
        {"model_type": "official-blip", "architectures": [kind], "image_text_hidden_size": 32, "temperature": False,
         "vision_config": config["vision_config"], "text_config": {**config["text_config"], "question_width": 64}}
    )  # fmt: skip
    weights = dict(official.keys[0].inverse().apply(module.state_dict()))
    assert "visual_encoder.blocks.0.attn.qkv.weight" in weights
    if kind == MATCH:
        weights |= {"temp": torch.tensor(0.07), "image_queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1),
                    "visual_encoder_m.cls_token": torch.zeros(1, 1, 64)}  # fmt: skip
    store(weights, tmp_path / "model.pth", "model")
    found = pm.load(tmp_path / "model.pth")
    given = inputs(tiny(transformers, {}, {"image_size": 64}))
    given["input_ids"] = given["input_ids"].clamp(max=31)
    if kind == ANSWER:
        given["decoder_input_ids"] = given["input_ids"]
    assert (found.logits(**given) - module(**given).logits).abs().max() <= 1e-5


def test_a_prompt_starts_with_the_decoders_id_and_loses_its_end(captioner) -> None:
    model, given, _, _ = captioner
    assert PROMPT == "a picture of "
    ids = torch.tensor([[5, 11, 12, 13, 6]]).expand(3, -1)
    found = model.generate(pixel_values=given["pixel_values"], input_ids=ids, max_new_tokens=1)
    assert found[:, :4].tolist() == [[57, 11, 12, 13]] * 3
    assert ids[0, 0] == 5
