"""CoDi: what is refused and by which words, conditions, files of `draw`, folders of pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check.evidence import codi
from polymodal.errors import ConfigError, MediaError, PromptError, WeightsError
from polymodal.systems import get
from polymodal.systems.codi.loading import heard, without_echo

SYSTEM = get("codi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random CoDi."""
    made = tmp_path_factory.mktemp("codi")
    codi.write_tiny_folder(made)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return pm.load(folder)


def test_any_mixture_becomes_any_mixture(model) -> None:
    picture, sound = Image.new("RGB", (40, 20), "red"), pm.audio((np.sin(np.arange(8000) / 9).astype("float32"), 16000))
    told: list[tuple[int, int]] = []
    wishes = {"size": (8, 16), "steps": 2, "seed": 3, "frames": 2}
    reply = model.compose("rain", picture, sound, make=("image", "text", "video"), mix={"text": 2.0, "audio": 0.5},
                          step=lambda *where: told.append(where), **wishes)  # fmt: skip
    assert list(reply.media) == ["image", "text", "video"] and told == [(1, 2), (2, 2)]
    assert reply.media["image"][0].size == (8, 16) and reply.text == reply.media["text"][0]
    assert reply.media["video"][0].frames.shape == (2, 16, 8, 3) and reply.media["video"][0].sound is None
    again = model.compose("rain", picture, sound, make=("image", "text", "video"), mix={"text": 2.0, "audio": 0.5},
                          **wishes)  # fmt: skip
    assert again.media["image"][0].tobytes() == reply.media["image"][0].tobytes() and again.text == reply.text
    drawn = model.draw("rain", size=(8, 16), steps=2, seed=3)  # a picture, where nothing else is said
    assert list(drawn.media) == ["image"] and model.makes == ("image", "video", "audio", "text")


@pytest.mark.parametrize(
    ("content", "wishes", "told"),
    [
        ((), {}, "needs something"),
        (("rain",), {"make": "smell"}, "make: expected image, video, audio, text, found 'smell'"),
        (("rain",), {"make": ("text", "text")}, "each modality is made once"),
        (("rain",), {"steps": 0}, "steps: expected 1 to 1000"),
        (("rain",), {"steps": 10_000}, "steps: expected 1 to 1000"),
        (("rain",), {"size": (9, 8)}, "sides in multiples of 2 pixels"),
        (("rain",), {"size": (8, 80_000_000)}, "pixels in all"),
        (("rain",), {"frames": 31, "make": "video"}, "frames: expected 1 to 30"),
        (("rain",), {"mix": {"smell": 1.0}}, "no condition is called 'smell'"),
        (("rain",), {"mix": {"text": 0.0}}, "weights of 0 and more"),
        ((Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))), {}, "expected one image as a condition, found several"),
        (("rain", pm.audio((np.zeros(0, "float32"), 16000))), {}, "recording"),
    ],
)
def test_what_cannot_be_composed_is_refused(model, content, wishes, told) -> None:
    with pytest.raises((ConfigError, PromptError, MediaError), match=told) as caught:
        model.compose(*content, **wishes)
    assert "\n" not in str(caught.value)


def test_a_folder_of_pieces(tmp_path) -> None:
    """Encoders and any of the U-Nets; a piece that is there twice, and none at all, are refused by name."""
    spec = codi.write_tiny_folder(tmp_path)
    whole = torch.load(tmp_path / "CoDi_encoders.pth", weights_only=True)
    sound = {name: x for name, x in whole.items() if ".unet_audio." in name}
    torch.save({name: x for name, x in whole.items() if name not in sound}, tmp_path / "CoDi_encoders.pth")
    torch.save(sound, tmp_path / "CoDi_audio_diffuser_m.pth")
    assert pm.load(tmp_path).makes == ("image", "video", "audio", "text")
    torch.save(sound, tmp_path / "again.pth")
    with pytest.raises(WeightsError, match="in another file of the folder too"):
        pm.load(tmp_path)
    (tmp_path / "again.pth").unlink()
    (tmp_path / "CoDi_audio_diffuser_m.pth").unlink()
    with pytest.raises(WeightsError, match=r"generators\.audio"):
        pm.load(tmp_path)
    fewer = {name: value for name, value in codi.TINY.items() if name != "unet_audio"}
    codi.write_config(tmp_path, config=fewer)
    small = pm.load(tmp_path)
    assert small.makes == ("image", "video", "text") and len(spec.parts) == 9
    with pytest.raises(ConfigError, match="make: expected image, video, text, found 'audio'"):
        small.compose("rain", make="audio")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"unet_image": {**codi.TINY["unet_image"], "lora": 4}}, "unknown option 'lora'"),
        ({"unet_image": {**codi.TINY["unet_image"], "model_channels": 48}}, "multiple of 32"),
        ({"unet_text": {**codi.TINY["unet_text"], "second_dim": [1, 2]}}, "one number for all levels"),
        ({"clap": {**codi.TINY["clap"], "joint_embed_shape": 12}}, "conditions of width 24"),
        ({"speech": {}}, "unknown option 'speech'"),
    ],
)
def test_damaged_configs_are_refused(change, told) -> None:
    with pytest.raises(ConfigError, match=told):
        SYSTEM.formats[0].model_spec({**codi.TINY, **change})


def test_files_without_a_config_are_recognised_by_their_names() -> None:
    shapes = {"clap.model.audio_branch.bn0.weight": (64,), "optimus.encoder.linear.weight": (1536, 768),
              "model.diffusion_model.unet_audio.time_embed.0.weight": (768, 192)}  # fmt: skip
    infer = SYSTEM.formats[0].infer
    assert infer is not None and infer({"a": (1,)}) is None
    found = infer(shapes)
    assert found is not None and "unet_audio" in found and "unet_text" not in found


def test_sounds_are_repeated_to_ten_seconds() -> None:
    wave = np.sin(np.arange(16_000 * 3) / 5).astype(np.float32)
    mel = heard(wave)
    assert mel.shape == (1, 1001, 64) and mel[0, 950].mean() < mel[0, 400].mean()  # 3 times 3 s, then silence
    assert torch.equal(heard(np.tile(wave, 5)), heard(np.tile(wave, 5)[:160_000]))


def test_words_said_twice_are_left_out() -> None:
    assert without_echo("a a cat cat sits on on a mat on a mat") == "a cat sits on a mat"
