"""CoDi: what is refused and by which words, conditions, files of `draw`, folders of pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check.evidence import codi
from polymodal.data.datasets.sample import Sample
from polymodal.data.messages import Message
from polymodal.data.video_writing import Film
from polymodal.errors import ConfigError, MediaError, PromptError, WeightsError
from polymodal.systems import get
from polymodal.systems.codi.loading import heard, without_echo
from polymodal.train.collator import WrongKind
from polymodal.train.joint_diffusion import BridgingAlignment, ComposedDenoising, LatentAlignment

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


def test_encoders_alone_make_nothing(tmp_path) -> None:
    """The published encoders without any U-Net, and files without a config.json, which are of the published size."""
    codi.write_tiny_folder(tmp_path)
    whole = torch.load(tmp_path / "CoDi_encoders.pth", weights_only=True)
    kept = {name: x for name, x in whole.items() if not name.startswith("model.diffusion_model.")}
    torch.save(kept, tmp_path / "CoDi_encoders.pth")
    codi.write_config(tmp_path, config={name: x for name, x in codi.TINY.items() if not name.startswith("unet_")})
    model = pm.load(tmp_path)
    assert model.makes == () and not model.composes
    with pytest.raises(ConfigError, match="cannot draw"):
        model.compose("rain")
    found = model.features(input_ids=torch.tensor([[26, 1, 27]]))["text"]
    assert found.shape == (1, 1, 24) and abs(float(found.detach().norm()) - 1) < 1e-5
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="clip"):
        pm.load(tmp_path)


def said(media, caption: str = "rain") -> Sample:
    """A medium with its caption."""
    parts = (Message(role="user", parts=(media,)), Message(role="assistant", parts=(pm.text(caption),)))
    return Sample(name="data:1", messages=parts)


def test_data_becomes_latents_of_what_is_learned(model, folder) -> None:
    tone = pm.audio((np.sin(np.arange(16_000) / 9).astype("float32"), 16_000))
    film = pm.video(Film(frames=np.zeros((4, 70, 80, 3), np.uint8), fps=4.0, sound=tone).mp4())
    picture, random = pm.image(Image.new("RGB", (80, 70), "red")), torch.Generator().manual_seed(0)

    def batch(objective, *samples: Sample):
        made = model._parts.collator(objective, None)
        return made.compares, made.batch([made.drawn(each, random) for each in samples], random).batch

    compares, found = batch(ComposedDenoising(makes="image"), said(picture), said(picture, "a long day"))
    assert not compares and found["latents_image"].shape == (2, 4, 32, 32) and found["input_ids"].shape == (2, 12)
    assert found["input_ids"][0, 6:].tolist() == [28] * 6  # filled with CLIP's end
    _, found = batch(LatentAlignment(makes=("video", "audio")), said(film))
    assert found["latents_video"].shape == (1, 4, 8, 32, 32) and found["latents_audio"].shape == (1, 8, 256, 16)
    compares, found = batch(BridgingAlignment(modality="audio"), said(tone), said(tone))
    assert compares and found["input_features"].shape == (2, 1, 1001, 64) and "latents_audio" not in found
    with pytest.raises(WrongKind, match="has audio where video is expected"):
        batch(BridgingAlignment(modality="video"), said(tone))
    with pytest.raises(WrongKind, match="has image where video with audio is expected"):
        batch(LatentAlignment(makes=("video", "audio")), said(picture))
    with pytest.raises(ConfigError, match="put its tokenizer files into optimus_encoder"):
        batch(ComposedDenoising(makes="text"), said(picture))
    there = folder / "optimus_encoder"
    there.mkdir()
    with pytest.raises(WeightsError, match="optimus_encoder has no"):
        batch(ComposedDenoising(makes="text"), said(picture))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rain"]
    (there / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    codi.write_config(there, tokenizer_config={"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    _, found = batch(ComposedDenoising(makes="text"), said(picture), said(picture, "rain rain"))
    assert found["latents_text"].shape == (2, 20) and found["pixel_values"].shape == (2, 3, 16, 16)


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
