"""MESM: what the threshold keeps, inputs as the official code makes them, and bad input refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from polymodal.check.evidence.mesm import SMALL, samples
from polymodal.encoders.sparse_vgg import SparseStage
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems import get
from polymodal.systems.mesm.inputs import face_values, spectrogram_pieces
from polymodal.train.affect import EmotionLabels

SYSTEM = get("mesm")
SPEC = SYSTEM.formats[0].model_spec


def test_positions_are_kept_until_their_chances_add_up():
    torch.manual_seed(0)
    stage = SparseStage(4, 6, 5, 0.7).eval()
    stage.attn_weight_affine.weight.data *= 6
    x, text, active = torch.randn(3, 4, 6, 6), torch.randn(3, 5), torch.rand(3, 6, 6) > 0.3
    kept = stage.kept(x, active, text)
    assert not (kept & ~active).any()
    seen = torch.tanh(stage.channel_affine(x.permute(0, 2, 3, 1)) + stage.y_affine(text)[:, None, None])
    scores = stage.attn_weight_affine(seen)[..., 0].masked_fill(~active, float("-inf")).flatten(1).softmax(1)
    for row, mask in zip(scores, kept.flatten(1), strict=True):
        own = row[mask]
        assert own.sum() >= 0.7 and own.sum() - own.min() < 0.7 and own.min() >= row[~mask].max()
    out, below = stage(x, active, text)
    assert (out[~below[:, None].expand_as(out)] == 0).all()


def test_dense_form_has_no_attention_and_reads_its_own_files():
    dense = SPEC({**SMALL, "threshold": None})
    assert not any("attn" in name for name, _ in dense.build().towers.vision.vgg.named_modules())
    shapes = {name: tuple(x.shape) for name, x in dense.keys[0].inverse().apply(dense.build().state_dict())}
    assert SYSTEM.formats[0].infer(shapes)["threshold"] is None


def test_pieces_of_a_spectrogram():
    rate = 16_000
    tone = torch.sin(torch.arange(rate) * (2 * np.pi * 1000 / rate))
    pieces = spectrogram_pieces(tone, rate)
    assert pieces.shape == (3, 1, 128, 32)  # 81 frames
    assert (pieces[2, 0, :, 17:] == 0).all()
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 130)[1:-1] / 2595) - 1)
    assert abs(centres[int(pieces[1, 0].mean(1).argmax())] - 1000) < 60
    twice = spectrogram_pieces(torch.sin(torch.arange(2 * rate) * (2 * np.pi * 1000 / rate / 2)), 2 * rate)
    assert twice.shape == pieces.shape
    with pytest.raises(MediaError, match=r"more than 200 samples, found \[100\]"):
        spectrogram_pieces(tone[:100], rate)


def test_faces_are_of_48_pixels_around_their_means():
    face = face_values(Image.new("RGB", (90, 70), (159, 148, 134)))
    assert face.shape == (3, 48, 48)
    assert torch.allclose(face[:, 0, 0], torch.tensor([0.0, 37 / 33, 1.0]))


def test_refusals():
    model, data = SPEC(SMALL).build(), samples([0, 1, 2])
    labels = data.pop("labels")
    for change, words in (
        ({"faces": None}, "found no faces"),
        ({"faces": data["faces"][:, :, :8]}, r"faces must be \[N, 3, 16, 16\], found \[4, 3, 8, 16\]"),
        ({"face_counts": torch.tensor([1, 1, 1])}, "face_counts add up to 3, found 4 faces"),
        ({"face_counts": torch.tensor([4, 0, 0])}, r"face_counts must be 3 numbers of 1 or more, found \[4, 0, 0\]"),
        ({"spectrogram_counts": torch.tensor([3])}, r"spectrogram_counts must be 3 numbers of 1 or more, found \[3\]"),
    ):
        with pytest.raises(PromptError, match=words):
            model(**{**data, **change})
    with pytest.raises(ConfigError, match=r"does not know the inputs \['video'\]"):
        model(**data, video=data["faces"])
    with pytest.raises(ConfigError, match="16 positions"):
        model(**{**data, "input_ids": torch.ones(3, 20, dtype=torch.long), "attention_mask": None})
    with pytest.raises(ConfigError, match="6 weights of emotions, the model has 3"):
        EmotionLabels(positive_weights=(1.0,) * 6).build(model)(model, {**data, "labels": labels})
    with pytest.raises(ConfigError, match=r"labels must be \[3, 3\], found \[3, 2\]"):
        EmotionLabels().build(model)(model, {**data, "labels": labels[:, :2]})
    for change, words in (
        ({"threshold": 1.0}, "threshold must lie between 0 and 1, found 1.0"),
        ({"face": [3, 50, 48]}, "face must be of sides divisible by 16, found 50 x 48"),
        ({"widths": [8, 8]}, "widths must be four, found 2"),
        ({"text_config": {"num_hidden_groups": 2}}, "one group of one block is supported"),
    ):
        with pytest.raises(ConfigError, match=words):
            SPEC({**SMALL, **change})
