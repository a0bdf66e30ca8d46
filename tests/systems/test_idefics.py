"""IDEFICS from published files: tensors and prompt of its processor, few-shot talk, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

transformers = pytest.importorskip("transformers")

import polymodal as pm  # noqa: E402
from polymodal.check.evidence.idefics import tiny  # noqa: E402
from polymodal.check.randomise import fill, values  # noqa: E402
from polymodal.data.template import written  # noqa: E402
from polymodal.errors import ConfigError, PromptError  # noqa: E402
from polymodal.systems.idefics import checkpoint as idefics  # noqa: E402

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
SIDE = 28
MARKS = [idefics.FAKE, idefics.IMAGE, idefics.EOU]


def tokenizer(instruct: bool) -> Any:
    """Bytes as words; ids 0..2 are pad, begin and end, the marks come last as in the released files."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {letter: 3 + i for i, letter in enumerate(letters)}
    pipeline = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    marks = MARKS if instruct else MARKS[:2]
    pipeline.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", *marks)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=pipeline, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>",
        additional_special_tokens=marks, padding_side="left",
    )  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["instruct", "base"])
def folder(request: Any, tmp_path_factory: Any) -> tuple[Path, bool]:
    place = tmp_path_factory.mktemp("idefics")
    text = {"vocab_size": 259, "additional_vocab_size": 3 if request.param else 2, "use_resampler": True,
            "alpha_initializer": "ones", "num_hidden_layers": 2}  # fmt: skip
    model = transformers.IdeficsForVisionText2Text(tiny(transformers, text, {}, {}))
    fill(model)
    model.save_pretrained(place)
    tokenizer(request.param).save_pretrained(place)
    settings = {
        "image_processor_type": "IdeficsImageProcessor",
        "image_size": SIDE,
        "image_num_channels": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (place / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return place, request.param


def processor(instruct: bool) -> Any:
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

    return transformers.IdeficsProcessor(IdeficsImageProcessorPil(image_size=SIDE), tokenizer(instruct))


def pictures() -> list[Pillow.Image]:
    whole = Pillow.open(CAT).convert("RGB")
    return [whole, whole.crop((10, 20, 147, 301)), whole.crop((3, 5, 300, 66))]


def shots(images: list[Pillow.Image]) -> list[dict[str, Any]]:
    """Two examples and a question, pictures before, behind and next to each other."""
    media = [pm.image(np.asarray(image)) for image in images]
    return [
        {"role": "user", "content": ["What is this?", media[0]]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": [media[1], media[2], " And these?"]},
    ]


def published(images: list[Pillow.Image], instruct: bool) -> list[Any]:
    """The same as the model card writes it."""
    end = [idefics.EOU] if instruct else []
    said = "".join(end)
    return ["User: What is this?", images[0], *end, f"\nAssistant: A cat.{said}\nUser:", images[1], images[2],
            f"And these?{said}\nAssistant:"]  # fmt: skip


def test_prompt_pixels_and_visibility_equal_the_published_processor(folder: tuple[Path, bool]) -> None:
    place, instruct = folder
    images = pictures()
    model = pm.load(place)
    ours = model.processor(shots(images), generate=True)
    theirs = processor(instruct)(
        text=published(images, instruct), return_tensors="pt", add_end_of_utterance_token=False
    )
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert (ours["pixel_values"] - theirs["pixel_values"][0]).abs().max() <= 1 / 255 / 0.26
    visible = model.module.context(model.features(**ours), ours).visible
    assert torch.equal(visible.long(), theirs["image_attention_mask"])
    logits = model.logits(**ours)
    torch.testing.assert_close(model.logits(**{**theirs, "pixel_values": ours["pixel_values"][None]}), logits)


def test_prompt_is_written_as_the_card_says() -> None:
    format = idefics.template(True)
    rendered = format.render(pm_messages(shots(pictures())), ask=True)
    fake = idefics.FAKE
    assert written(rendered) == (
        f"<s>User: What is this?{fake}<image>{fake}<end_of_utterance>\nAssistant: A cat.<end_of_utterance>\n"
        f"User:{fake}<image>{fake}<image>{fake}And these?<end_of_utterance>\nAssistant:"
    )


def pm_messages(given: list[dict[str, Any]]) -> Any:
    from polymodal.data.messages import conversation

    return conversation(given)


def test_few_shot_talk_equals_the_library(folder: tuple[Path, bool]) -> None:
    place, instruct = folder
    images = pictures()
    model = pm.load(place)
    reply = model.chat(shots(images), max_tokens=12)
    oracle = transformers.IdeficsForVisionText2Text.from_pretrained(place)
    given = processor(instruct)(text=published(images, instruct), return_tensors="pt", add_end_of_utterance_token=False)
    given["pixel_values"] = model.processor(shots(images))["pixel_values"][None]
    stop = tokenizer(instruct).convert_tokens_to_ids(idefics.EOU if instruct else "</s>")
    ids = oracle.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=stop, pad_token_id=0)
    new = ids[0, given["input_ids"].shape[1] :].tolist()
    assert reply.text == tokenizer(instruct).decode(new, skip_special_tokens=True)
    other = model.chat(shots(images[::-1]), max_tokens=12)
    assert other.text != reply.text  # the pictures matter


def test_a_talk_without_pictures_still_passes_the_gated_blocks(folder: tuple[Path, bool]) -> None:
    place, _ = folder
    model = pm.load(place)
    ours = model.processor([{"role": "user", "content": "Hello"}], generate=True)
    oracle = transformers.IdeficsForVisionText2Text.from_pretrained(place)
    ids = ours["input_ids"]
    nothing = torch.zeros(1, 1, 3, SIDE, SIDE), torch.zeros(1, ids.shape[1], 1, dtype=torch.bool)
    with torch.no_grad():
        expected = oracle(input_ids=ids, pixel_values=nothing[0], image_attention_mask=nothing[1]).logits
    torch.testing.assert_close(model.logits(**ours), expected, atol=1e-4, rtol=0)


def test_positions_are_stretched_as_the_library_stretches_them(folder: tuple[Path, bool]) -> None:
    ids = torch.tensor([[1, 5, 260, 6, 7]])
    given = {"input_ids": ids, "pixel_values": values("large", (1, 1, 3, 42, 35)), "interpolate_pos_encoding": True,
             "image_attention_mask": torch.tensor([[[0], [0], [1], [1], [1]]])}  # fmt: skip
    oracle = transformers.IdeficsForVisionText2Text.from_pretrained(folder[0])
    with torch.no_grad():
        expected = oracle(**given).logits
    torch.testing.assert_close(pm.load(folder[0]).logits(**given), expected, atol=1e-4, rtol=0)


def test_labels_are_the_answers(folder: tuple[Path, bool]) -> None:
    place, instruct = folder
    model = pm.load(place)
    batch = model.processor([*shots(pictures()), {"role": "assistant", "content": "Cats."}])
    learned = batch["input_ids"][0][batch["labels"][0] >= 0].tolist()
    end = idefics.EOU if instruct else ""
    assert model.processor.tokenizer.decode(learned, skip_special=False) == f" A cat.{end} Cats.{end}"


def test_options_and_tables_that_do_not_fit_are_named(folder: tuple[Path, bool]) -> None:
    with pytest.raises(ConfigError, match="cross_layer_interval 3"):
        idefics.parse_config({"num_hidden_layers": 4, "cross_layer_interval": 3})
    with pytest.raises(ConfigError, match="alpha_type 'table'"):
        idefics.parse_config({"alpha_type": "table"})
    model = pm.load(folder[0])
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(PromptError, match="1 rows of 2 items are announced, found 1"):
        model.logits(
            input_ids=ids, pixel_values=torch.zeros(1, 1, 3, SIDE, SIDE), image_attention_mask=torch.ones(1, 3, 2)
        )
