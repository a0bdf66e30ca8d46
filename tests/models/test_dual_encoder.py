"""Dual encoders against transformers' CLIPModel; all parameters random."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from polymodal.check.randomise import fill, values
from polymodal.encoders import clip_text, clip_vit
from polymodal.errors import ConfigError, PromptError
from polymodal.models.dual_encoder import DualEncoder, class_vectors
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Unsqueeze

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4  # float32, absolute

VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 22,
    "patch_size": 7, "num_channels": 4,
}  # fmt: skip
TEXT = {
    "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 99,
    "eos_token_id": 98,
}  # fmt: skip


def pair(folder: Path) -> tuple[nn.Module, DualEncoder]:
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=20)
    theirs = transformers.CLIPModel(config).eval()
    fill(theirs)
    theirs.save_pretrained(folder)
    image = clip_vit.with_projection(clip_vit.parse_config(VISION), 20)
    text = replace(clip_text.parse_config(TEXT), out_width=20)
    ours = DualEncoder({"image": image.build(), "text": text.build()}).eval()
    keys = (
        clip_vit.hf_keys(image).prefixed(target="encoders.image.")
        + clip_text.hf_keys(text).prefixed(target="encoders.text.")
        + KeyTable((rename("logit_scale", "logit_scale", Unsqueeze()),))
    )
    ours.load_state_dict(dict(keys.apply(load_file(folder / "model.safetensors"), ours)))
    return theirs, ours


def test_equals_transformers(tmp_path: Path) -> None:
    theirs, ours = pair(tmp_path)
    batch = {
        "pixel_values": values("pixels", (3, 4, 22, 22)),
        "input_ids": torch.tensor([[97, 5, 6, 98], [97, 8, 98, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    with torch.no_grad():
        expected = theirs(**batch)
        features = ours.features(**batch)
        torch.testing.assert_close(ours(**batch).logits, expected.logits_per_image, atol=TOLERANCE, rtol=0)
        image = theirs.get_image_features(batch["pixel_values"]).pooler_output  # type: ignore[operator]
        torch.testing.assert_close(features["image"], image, atol=TOLERANCE, rtol=0)
        larger = {**batch, "pixel_values": values("larger", (2, 4, 30, 37)), "interpolate_pos_encoding": True}
        torch.testing.assert_close(ours(**larger).logits, theirs(**larger).logits_per_image, atol=TOLERANCE, rtol=0)
        del batch["pixel_values"]
        text = theirs.get_text_features(**batch).pooler_output  # type: ignore[operator]
        only = ours.features(**batch)
    assert list(only) == ["text"]
    torch.testing.assert_close(only["text"], text, atol=TOLERANCE, rtol=0)


def test_names_what_is_missing(tmp_path: Path) -> None:
    _, ours = pair(tmp_path)
    pixels = values("pixels", (1, 4, 22, 22))
    assert ours(pixel_values=pixels).logits is None
    with pytest.raises(PromptError, match="needs image and text, found \\['image'\\]"):
        ours(pixel_values=pixels, return_loss=True)
    with pytest.raises(PromptError, match="expected one of"):
        ours.features(attention_mask=torch.ones(1, 4))
    with pytest.raises(ConfigError, match="audio_values"):
        ours.features(audio_values=torch.ones(1, 4))


def test_class_vectors_are_normed_twice() -> None:
    prompts = [values("a", (7, 5)), values("b", (3, 5))]
    found = class_vectors(prompts)
    for row, vectors in zip(found, prompts, strict=True):
        mean = (vectors / vectors.norm(dim=-1, keepdim=True)).mean(0)
        torch.testing.assert_close(row, mean / mean.norm())
