"""4M: which folders are its, what its sequences say, what a person asks of it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_layout
from polymodal.check.evidence.fourm import PIXELS, codec_config, drawing_config, grid, shape
from polymodal.check.fixture import fixture_case, read
from polymodal.cli.app import app
from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.generators import samplers
from polymodal.pipelines.grounding import Thing
from polymodal.systems.fourm import SYSTEM
from polymodal.systems.fourm.sequences import (
    box_text,
    fact_chunks,
    palette_text,
    read_boxes,
    read_facts,
    read_palette,
)
from polymodal.systems.fourm.usual import usual

SPECIALS = ("[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(8)), "v0=1", "v1=2")


def write(folder: Path, config: dict[str, Any], format: int) -> Path:
    """A folder in the published format."""
    torch.manual_seed(0)
    spec = SYSTEM.formats[format].model_spec(config)
    write_layout(folder / "model.safetensors", spec.build(), SYSTEM.formats[format], spec)
    write_config(folder, config=config)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("fourm")
    words = {"type": "seq", "vocab_size": byte_tokenizer(found, SPECIALS, pad="[PAD]"), "max_length": 8}
    config = shape(**{"rgb@224": PIXELS, "caption": words, "metadata": words, "tok_semseg@224": grid(32)})
    return write(found, config, 0)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("codec"), codec_config(), 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 51, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_boxes_are_written_and_read_as_published():
    things = (Thing(label="dining table", box=(0.5, 0.25, 1.0, 0.75)), Thing(label="cat", box=(0.0, 0.1, 0.3, 0.4)))
    text = box_text(things)
    assert text == "v0=0 v1=100 v2=300 v3=400 cat v0=500 v1=250 v2=999 v3=749 dining table"
    found = read_boxes(text)
    assert [each.label for each in found] == ["cat", "dining table"]
    assert found[1].box == pytest.approx((0.5, 0.25, 1.0, 0.75), abs=1e-3)
    assert box_text(found) == text and read_boxes("v0=9 v1=1 v2=3 v3=4 dog v0=3 v1") == ()
    with pytest.raises(PromptError, match="box of 'dog': expected left <= right"):
        box_text([Thing(label="dog", box=(0.5, 0.0, 0.4, 1.0))])


def test_facts_and_colours_are_written_and_read_as_published():
    facts = {"original_width": 640, "brightness": 127.5, "n_humans": 3, "watermark_score": 0.7, "aesthetic_score": 5.0}
    chunks = fact_chunks(facts)
    assert chunks == ["v1=0 v0=20", "v1=10 v0=24", "v1=5 v0=3", "v1=19 v0=1", "v1=20 v0=1"]
    found = read_facts(" ".join(chunks))
    assert (
        found["original_width"] == 640 and found["n_humans"] == 3 and found["brightness"] == pytest.approx(124.9, abs=1)
    )
    with pytest.raises(PromptError, match="'weight' is not one of original_width"):
        fact_chunks({"weight": 1.0})
    colours = ((255, 0, 12), (7, 8, 9))
    assert palette_text(colours) == "v1=2 v0=255 v0=0 v0=12 v0=7 v0=8 v0=9"
    assert read_palette(palette_text(colours)) == colours
    with pytest.raises(PromptError, match=r"expected 1 .. 7 colours, found 8"):
        palette_text([(0, 0, 0)] * 8)


def test_a_photo_becomes_words_facts_and_a_picture_of_classes(folder, codec, photo, tmp_path):
    call = ["turn", str(folder), str(photo), "-i", "caption", "-i", "metadata", "-i", "tok_semseg@224", "--json",
            "--codec", f"tok_semseg@224={codec}", "--out", str(tmp_path)]  # fmt: skip
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["modalities"]
    assert [row["modality"] for row in rows] == ["caption", "metadata", "tok_semseg@224"]
    assert rows[0]["text"] is not None and rows[2]["file"] == str(tmp_path / "tok_semseg-224.png")
    assert Image.open(rows[2]["file"]).size == (32, 32)


def test_nobody_asked_so_it_is_written_as_the_demonstration_does():
    picture = ModalityConfig(kind="grid", vocab_size=9, grid=(14, 14))
    words = ModalityConfig(kind="sequence", vocab_size=9)
    seen = usual("tok_depth@224", picture, {"rgb@224"})
    assert (seen.scheme, seen.steps, seen.temperature, seen.guidance) == ("roar", 1, 0.01, 2.0)
    told = usual("tok_clip@224", picture, {"caption"})
    assert (told.steps, told.temperature, told.temperatures, told.guidance) == (50, 5.0, "onex:0.5:0.5", 3.0)
    assert usual("tok_rgb@224", picture, {"caption"}).steps == 25
    assert (usual("tok_rgb@448", picture, {"caption"}).scheme, usual("caption", words, ()).temperature) == (
        "maskgit",
        0.3,
    )


def test_words_and_ids_are_read_too(folder):
    model = pm.load(folder)
    assert "turn" in model.can
    first = model.turn("a cat", ["tok_semseg@224"])["tok_semseg@224"]
    assert first.ids.shape == (4, 4) and first.values is None
    given = {"tok_semseg@224": first.ids, "caption": "a [S_1]"}
    assert model.turn(given, ["caption"])["caption"].text.startswith("a")


REFUSED = (
    ("a cat", ["depth"], "the model does not write 'depth'; it writes caption"),
    ("a cat", [], "name at least one modality"),
    ("a very long caption", ["metadata"], r"caption: expected at most 8 tokens, found 20"),
    ({"tok_semseg@224": "words"}, ["caption"], r"tok_semseg@224: expected ids \[h, w\], or a picture and a codec"),
    ({"sound": "words"}, ["caption"], "the model has no modality 'sound'"),
    ("a cat", ["metadata", "metadata"], "a modality is wanted twice"),
)


@pytest.mark.parametrize(("given", "into", "words"), REFUSED, ids=lambda each: str(each)[:30])
def test_what_cannot_be_turned_is_refused(folder, given, into, words):
    with pytest.raises((PromptError, ConfigError), match=words):
        pm.load(folder).turn(given, into)


WRONG = (
    (0, {"act_layer": "Sin"}, "act_layer is one of SiLU, GELU, ReLU"),
    (0, {"domains_out": ["rgb@224"]}, "must each name a modality"),
    (0, {"domains_in": ["smell"]}, "modality 'smell' is not one of caption"),
    (0, {"modality_info": {"rgb@224": {"colour": 1}}}, "modality_info of rgb@224 has 'colour'"),
    (0, {"speed": 2}, "config.json has 'speed', which is not supported"),
    (1, {"enc_type": "resnet"}, "enc_type is vit_s_enc"),
    (1, {"patch_size": 7}, "patches of 7 do not fill 32 pixels"),
    (1, {"num_codebooks": 2}, "quant_type is lucid with one codebook"),
    (1, {"loss_fn": "mse"}, "loss_fn 'mse' does not go with n_labels 8"),
    (2, {"dec_type": "unet_cat"}, "dec_type of a codec that diffuses is unet_patched, found 'unet_cat'"),
    (2, {"unet_shape": {"channel_mult": []}}, r"the first multiplier is 1, found \(\)"),
    (2, {"num_train_timesteps": 0}, "steps: expected 1 to 0, found 0"),
    (2, {"scheduler": "pndm"}, "scheduler is ddpm or ddim, found 'pndm'"),
    (2, {"prediction_type": "score"}, "prediction_type is one of sample, epsilon, v_prediction, found 'score'"),
    (2, {"beta_schedule": "sigmoid"}, "beta_schedule is one of linear, scaled_linear, squaredcos_cap_v2"),
    (2, {"beta_schedule": "shifted_cosine:much"}, "expected a number behind the colon"),
    (2, {"n_labels": 8}, r"classes \(n_labels\) do not go with a writing half that diffuses"),
)


@pytest.mark.parametrize(("format", "change", "words"), WRONG, ids=lambda each: str(each)[:30])
def test_configs_that_describe_nothing_are_refused(format, change, words):
    whole = shape(**{"rgb@224": PIXELS, "tok_semseg@224": grid(32)})
    base = (whole, codec_config(), drawing_config())[format]
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[format].model_spec({**base, **change})


@pytest.mark.parametrize("name", ["pixels", "depth", "velocity"])
def test_pictures_are_drawn_step_by_step_as_published(name, tmp_path, monkeypatch):
    """The noise of a seed is the same, so all states on the way are those of the official pipeline."""
    about, stored = read(f"fourm_codec_{name}")
    fixture_case(name, f"fourm_codec_{name}").make(tmp_path)
    model, states = pm.load(tmp_path).module, []
    kind = samplers.KINDS[model.diffusion.config.sampler.kind]
    step = kind.step

    def watched(walk, *given):
        states.append(step(walk, *given))
        return states[-1]

    monkeypatch.setattr(kind, "step", watched)
    ids, seed, steps = stored["out.predictions.tokens"], int(about["seed"]), int(about["steps"])
    assert (model.write(ids, seed=seed, steps=steps) - stored["out.drawn"]).abs().max() < 1e-4
    found = torch.stack([each[:1, :, ::8, ::8] for each in states])
    assert found.shape == stored["out.states"].shape and (found - stored["out.states"]).abs().max() < 1e-4
    assert not torch.equal(states[-1], model.write(ids, seed=seed + 1, steps=steps))


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("drawing"), drawing_config(), 2)


def test_a_photo_becomes_a_picture_drawn_from_ids(folder, drawing, photo, tmp_path):
    call = ["turn", str(folder), str(photo), "-i", "tok_semseg@224", "--json", "--codec", f"tok_semseg@224={drawing}",
            "--out", str(tmp_path), "--steps"]  # fmt: skip
    pictures = []
    for steps, seed in (("3", "0"), ("3", "0"), ("3", "1"), ("4", "0")):
        result = CliRunner().invoke(app, [*call, steps, "--seed", seed])
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.stdout)["modalities"]
        pictures.append((tmp_path / "tok_semseg-224.png").read_bytes())
        assert row["file"] == str(tmp_path / "tok_semseg-224.png") and Image.open(row["file"]).size == (32, 32)
    assert pictures[0] == pictures[1] and len(set(pictures)) == 3


@pytest.mark.parametrize("steps", [0, -1, 10_000])
def test_steps_that_no_schedule_has_are_refused(steps, drawing):
    with pytest.raises(ConfigError, match=f"found {steps}"):
        pm.load(drawing).module.write(torch.zeros(1, 4, 4, dtype=torch.long), steps=steps)


def test_steps_are_of_codecs_that_draw(folder, codec):
    with pytest.raises(ConfigError, match="none of the codecs draws by diffusion, so there are no 5 steps"):
        pm.load(folder).turn("a cat", ["tok_semseg@224"], codecs={"tok_semseg@224": pm.load(codec)}, steps=5)


def test_a_codec_with_a_decoder_that_is_not_built_gives_ids_alone(tmp_path):
    config = {**drawing_config(), "dec_type": "uvit_b_p4_f8"}
    model = pm.load(write(tmp_path, config, 2))
    ids = model.module.image_tokens(torch.zeros(1, 3, 32, 32))
    assert ids.shape == (1, 4, 4)
    with pytest.raises(ConfigError, match="holds the reading half alone"):
        model.module.write(ids)
    with pytest.raises(PromptError, match=r"codec: expected \[N, 3, H, W\] with sides in patches of 8"):
        model.module.image_tokens(torch.zeros(1, 3, 30, 32))


def test_sides_that_the_u_net_cannot_halve_are_refused(drawing):
    deep = {**drawing_config(), "unet_shape": {**drawing_config()["unet_shape"], "channel_mult": [1, 1, 1, 1]}}
    model = SYSTEM.formats[2].model_spec(deep).build()
    with pytest.raises(PromptError, match=r"sides in multiples of 32, found \[1, 3, 24, 24\]"):
        model.write(torch.zeros(1, 3, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match="a half that diffuses learns from noise and timesteps"):
        pm.load(drawing).module(pixel_values=torch.zeros(1, 3, 32, 32), return_loss=True)
