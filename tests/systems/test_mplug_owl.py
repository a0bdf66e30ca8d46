"""mPLUG-Owl: the pieces of a conversation as its training cuts them, pictures as its processor makes them, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config
from polymodal.check.evidence.mplug_owl import small
from polymodal.check.fixture import official_weights, read, store
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.messages import conversation
from polymodal.data.template import TEXT_START, Slot, Special, Words
from polymodal.errors import ConfigError, WeightsError
from polymodal.systems import get
from polymodal.systems.mplug_owl.checkpoint import SYSTEM_WORDS, TEMPLATE, media_apart

FORMAT = get("mplug-owl").formats[0]
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"


def talk() -> list[dict[str, Any]]:
    picture = pm.image(np.zeros((8, 8, 3), dtype=np.uint8))
    return [
        {"role": "user", "content": [picture, picture, "Are they alike?"]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Why?"},
    ]


def pieces(segments: Any) -> list[str]:
    """What is tokenised by itself; pictures and special tokens stand alone."""
    made = [""]
    for segment in segments:
        if isinstance(segment, Words):
            made[-1] += segment.text
        elif segment is TEXT_START:
            made.append("")
        else:
            assert isinstance(segment, Slot | Special)
            made += ["<image>" if isinstance(segment, Slot) else segment.name, ""]
    return [piece for piece in made if piece]


def test_a_conversation_is_cut_as_in_the_official_training() -> None:
    found = pieces(TEMPLATE.render(media_apart(conversation(talk())), ask=True))
    human, asked = "\nHuman: ", "AI: "
    assert SYSTEM_WORDS.startswith("The following is a conversation between a curious human and AI assistant. ")
    assert found == [
        "<s>", SYSTEM_WORDS, human, "<image>", human, "<image>", human, "Are they alike?\n", asked, "Yes.", "</s>",
        human, "Why?\n", asked,
    ]  # fmt: skip
    learned = [
        getattr(each, "text", getattr(each, "name", ""))
        for each in TEMPLATE.render(media_apart(conversation(talk()[:2])), ask=False)
        if getattr(each, "loss_mask", False)
    ]
    assert learned == ["Yes.", "</s>"]


def test_pictures_are_squeezed_into_a_square_before_clip_s_processor(tmp_path: Path) -> None:
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    theirs = processing.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    loaded = FORMAT.model_spec(small(size)).assemble(None, CheckpointFiles(tmp_path))
    whole = Pillow.open(CAT).convert("RGB")
    pictures = [whole, whole.crop((0, 0, 301, 200))]
    asked = [{"role": "user", "content": [*(pm.image(np.asarray(each)) for each in pictures), "Which is larger?"]}]
    batch = loaded.processor(asked, generate=True)
    wanted = theirs(images=[each.resize((56, 56), 3) for each in pictures], return_tensors="pt")["pixel_values"]
    assert (batch["pixel_values"] - wanted).abs().max() < 1e-5
    assert (batch["input_ids"] == -1).sum() == 2 * 9 and batch["item_tokens"]["image"] == (9, 9)


def test_other_files_are_refused(tmp_path: Path) -> None:
    about, _ = read("mplug_owl_llama")
    config = json.loads(about["config"])
    with pytest.raises(ConfigError, match=r"text_config\.model_type 'opt' is not supported; expected llama or bloom"):
        FORMAT.model_spec({**config, "text_config": {"model_type": "opt"}})
    weights = official_weights(about)
    weights["vision_model.encoder.layers.0.temporal.ln.weight"] = torch.ones(32)
    store(weights, tmp_path / "pytorch_model.bin", "")
    write_config(tmp_path, config=config)
    with pytest.raises(WeightsError, match=r"temporal\.ln\.weight"):
        pm.load(tmp_path)
