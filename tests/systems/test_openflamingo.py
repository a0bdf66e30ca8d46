"""OpenFlamingo from its published files: what was trained beside CLIP and the language model; few-shot prompts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, pre_tokenizers

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.fixture import read
from polymodal.data.messages import conversation
from polymodal.data.template import written
from polymodal.errors import ConfigError, WeightsError
from polymodal.systems.openflamingo import checkpoint as openflamingo

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def tensors(fixture: str) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Config, official weights, and what the official module was asked and said."""
    about, stored = read(fixture)
    return json.loads(about["config"]), randomise.state(json.loads(about["shapes"])), stored


def write_parts(folder: Path, fixture: str) -> dict[str, torch.Tensor]:
    """The folder as it is published: checkpoint.pt, `language` and `vision`; returns the stored case."""
    config, weights, stored = tensors(fixture)
    trained = {n: x for n, x in weights.items() if n.startswith("perceiver.") or "gated_cross" in n or "embed" in n}
    trained |= {name: x for name, x in weights.items() if name.endswith("transformer.wte.weight")}
    language = {n.removeprefix("lang_encoder.").replace("decoder_layer.", ""): x
                for n, x in weights.items() if n.startswith("lang_encoder.") and n not in trained}  # fmt: skip
    # the published language model has an embedding of its own, smaller or larger
    language |= {n.removeprefix("lang_encoder."): torch.zeros(7, x.shape[1]) for n, x in trained.items() if "lang" in n
                 and "gated" not in n}  # fmt: skip
    vision = {n.replace("vision_encoder.", "visual."): x for n, x in weights.items() if n.startswith("vision_encoder.")}
    for part, held in (("language", language), ("vision", vision | {"logit_scale": torch.ones(())})):
        (folder / part).mkdir()
        torch.save(held, folder / part / "pytorch_model.bin")
    (folder / "language" / "config.json").write_text(json.dumps(config["text_config"]), encoding="utf-8")
    torch.save({"model_state_dict": {f"module.{name}": x for name, x in trained.items()}}, folder / "checkpoint.pt")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return stored


@pytest.mark.parametrize("fixture", ["openflamingo", "openflamingo_neox", "openflamingo_mosaic"])
def test_trained_part_joins_clip_and_language_model(tmp_path: Path, fixture: str) -> None:
    stored = write_parts(tmp_path, fixture)
    model = pm.load(tmp_path, system="openflamingo")
    real = stored["in.attention_mask"].bool()
    found = model.logits(**{name[3:]: x for name, x in stored.items() if name.startswith("in.")})
    torch.testing.assert_close(found[real], stored["out.logits"][real], atol=1e-4, rtol=0)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_parts(tmp_path, "openflamingo")
    (tmp_path / "language" / "config.json").unlink()
    with pytest.raises(WeightsError, match="model_type None"):
        pm.load(tmp_path, system="openflamingo")
    with pytest.raises(ConfigError, match="'bert'; expected one of"):
        openflamingo.parse_config({"text_config": {"model_type": "bert"}, "media_token_id": 1})


@pytest.mark.parametrize(("size", "fixture"), [("3b", "_mosaic"), ("4b", "_neox"), ("9b", "")])
def test_published_checkpoints_are_recognised_by_shape(size: str, fixture: str) -> None:
    shapes = json.loads(read(f"openflamingo{fixture}")[0]["published_shapes"])
    trained = {name: shape for name, shape in shapes.items() if "decoder_layer" not in name}
    assert openflamingo.infer(trained) == openflamingo.published(size)
    assert openflamingo.infer({"model.embed_tokens.weight": (5, 4)}) is None


def tokenizer_json() -> str:
    """Bytes as words, without the three added tokens."""
    letters = [chr(c) for c in range(65, 91)] + [chr(c) for c in range(97, 123)] + ["Ġ", ":", "?", ".", ","]
    pipeline = Pipeline(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    return pipeline.to_str()


def shots(images: list[Pillow.Image]) -> list[dict[str, Any]]:
    media = [pm.image(np.asarray(image)) for image in images]
    return [
        {"role": "user", "content": [media[0], "What is it?"]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [media[1], "And this?"]},
    ]


def pictures() -> list[Pillow.Image]:
    whole = Pillow.open(CAT).convert("RGB")
    return [whole, whole.crop((10, 20, 147, 301))]


def test_prompts_are_written_as_in_the_official_evaluation() -> None:
    segments = openflamingo.SHOTS.render(conversation(shots(pictures())), ask=True)
    assert written(segments) == (
        "<image>Question:What is it? Short answer:a cat<|endofchunk|><image>Question:And this? Short answer:"
    )
    caption = [{"role": "user", "content": [pm.image(np.asarray(pictures()[0]))]}]
    assert written(openflamingo.SHOTS.render(conversation(caption), ask=True)) == "<image>Output:"


@pytest.fixture(scope="module")
def talker(tmp_path_factory: Any) -> Any:
    """A tiny model whose last three of 60 words are the added tokens."""
    place = tmp_path_factory.mktemp("openflamingo")
    config, weights, _ = tensors("openflamingo")
    (place / "config.json").write_text(json.dumps({**config, "eos_token_id": 57}), encoding="utf-8")
    torch.save(weights, place / "checkpoint.pt")
    (place / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    return pm.load(place, system="openflamingo")


def test_few_shot_talk(talker: Any) -> None:
    batch = talker.processor(shots(pictures()), generate=True)
    assert batch["vision_x"].shape == (2, 3, 28, 28)
    assert (batch["input_ids"] == 58).sum() == 2  # <image>, added behind <|endofchunk|>
    reply = talker.chat(shots(pictures()), max_tokens=8)
    ids = talker.generate(**{n: x for n, x in batch.items() if n in ("input_ids", "attention_mask", "vision_x")},
                          max_new_tokens=8, eos_token_id=57)  # fmt: skip
    new = [i for i in ids[0, batch["input_ids"].shape[1] :].tolist() if i != 57]
    assert reply.text == talker.processor.tokenizer.decode(new)
    table = batch["vision_x"][None, :, None]  # as the official module takes it
    torch.testing.assert_close(talker.logits(**{**batch, "vision_x": table}), talker.logits(**batch))
    swapped = talker.logits(**{**batch, "vision_x": batch["vision_x"].flip(0)})
    assert not torch.allclose(swapped[:, 5:], talker.logits(**batch)[:, 5:])


def test_labels_are_the_answers_and_their_ends(talker: Any) -> None:
    batch = talker.processor(shots(pictures()))
    learned = batch["input_ids"][0][batch["labels"][0] >= 0].tolist()
    assert talker.processor.tokenizer.decode(learned, skip_special=False) == "a cat<|endofchunk|>"


def test_pixels_equal_the_library_of_today(talker: Any) -> None:
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    theirs = processing.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    whole = Pillow.open(CAT).convert("RGB")
    for image in (whole, whole.crop((0, 0, 300, 200)), whole.crop((5, 9, 133, 265))):
        expected = theirs(images=image, return_tensors="pt")["pixel_values"][0]
        found = talker.processor.modalities["image"].transform(image)
        assert (found - expected).abs().max() <= 1 / 255 / 0.26
