"""BEiT v2 beyond its evidence: losses and the moving average by the official code, files alone, preprocessing."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.evidence.beit_v2 import build, masked, tokenizer
from polymodal.check.fixture import official_weights, read, store
from polymodal.errors import ConfigError
from polymodal.systems import beit
from polymodal.systems.beit_v2 import SYSTEM
from polymodal.systems.beit_v2.checkpoint import (
    parse_masked_config,
    parse_tokenizer_config,
    read_masked,
    read_tokenizer,
)
from polymodal.train.visual_tokens import VectorQuantizedDistillation


@pytest.fixture
def official(tmp_path):
    about, tensors = read("beit_v2_tokenizer")
    (tmp_path / "config.json").write_text(about["config"])
    store(official_weights(about), tmp_path / about["file"], about["entry"])
    return pm.load(tmp_path).module, tensors


def test_one_step_of_training_moves_the_codes_as_the_official_code_does(official) -> None:
    model, tensors = official
    pixels = tensors["in.pixel_values"]
    vectors = model.vectors(pixels)
    model.follow(vectors.detach(), model.nearest(vectors))
    assert (model.codebook - tensors["out.codebook"]).abs().max() <= 1e-5


def test_losses_are_those_of_the_official_code(official) -> None:
    model, tensors = official
    found = model(pixel_values=tensors["in.pixel_values"], teacher_features=randomise.values("teacher", (3, 16, 10)))
    for name in ("reading", "commitment"):
        assert found.losses[name].item() == pytest.approx(tensors[f"out.loss.{name}"].item(), abs=1e-5)


def test_codes_begin_as_means_of_the_first_batch_and_dead_ones_stay() -> None:
    torch.manual_seed(0)
    model = build(tokenizer(), 1)
    loss = VectorQuantizedDistillation().build(model)
    batch = {"pixel_values": randomise.values("pixels", (4, 3, 64, 64)) / 2,
             "teacher_features": randomise.values("teacher", (4, 64, 18))}  # fmt: skip
    loss(model.train(), batch)
    assert bool(loss.begun)
    assert torch.allclose(model.codebook.norm(dim=-1), torch.ones(32), atol=1e-5)
    before, vectors = model.codebook.clone(), F.normalize(torch.randn(5, 8), dim=-1)
    model.follow(vectors, torch.tensor([1, 1, 2, 2, 2]))
    assert torch.allclose(model.codebook[3:], before[3:], atol=1e-6)
    assert not torch.allclose(model.codebook[1:3], before[1:3], atol=1e-4)
    with pytest.raises(ConfigError, match="needs teacher_features"):
        loss(model, {"pixel_values": batch["pixel_values"]})
    with pytest.raises(ConfigError, match="needs a VisualTokenizer"):
        VectorQuantizedDistillation().build(torch.nn.Linear(1, 1))


def test_files_alone_are_recognised_and_beit_leaves_them(tmp_path) -> None:
    for fixture, reader in (("beit_v2_masked", read_masked), ("beit_v2_tokenizer", read_tokenizer)):
        about, _ = read(fixture)
        shapes = {name: tuple(shape) for name, shape in json.loads(about["shapes"]).items()}
        wanted = json.loads(about["config"])
        found = reader(shapes)
        unknown = {"num_attention_heads", "decoder_heads"} if reader is read_tokenizer else set()
        assert {k: v for k, v in found.items() if k not in unknown} == {
            k: v for k, v in wanted.items() if k not in unknown
        }
        assert beit.official.infer(shapes) is None
        store(official_weights(about), tmp_path / f"{fixture}.pth", "model")
        assert pm.load(tmp_path / f"{fixture}.pth").system.id == "beit-v2"
    assert read_masked({"a": (1,)}) is None
    assert read_tokenizer({"a": (1,)}) is None


def test_the_teacher_of_a_run_is_dropped_by_name() -> None:
    spec = SYSTEM.formats[1].model_spec(tokenizer())
    with torch.device("meta"):
        target = spec.build().state_dict()
    names = [name for name, _ in spec.keys[0].inverse().apply(target)]
    more = ["teacher_model.visual.proj", "scaling_layer.shift", "quantize.embedding.embed_avg"]
    report = spec.keys[0].check(names + more, target)
    report.require()
    assert set(report.dropped) == set(more)


def test_the_masked_model_sees_imagenet_colours_and_the_tokenizer_minus_one_to_one() -> None:
    picture = np.full((30, 30, 3), 255, np.uint8)
    for spec, white in ((parse_masked_config(masked()), (1 - 0.485) / 0.229), (parse_tokenizer_config(tokenizer()), 1)):
        module = spec.build()
        processor = spec.assemble(module, pm_files()).processor
        pixels = processor(images=picture)["pixel_values"]
        assert pixels.shape == (1, 3, 64, 64)
        assert pixels[0, 0, 0, 0].item() == pytest.approx(white, abs=1e-4)


def pm_files():
    from pathlib import Path

    from polymodal.checkpoints.record import CheckpointFiles

    return CheckpointFiles(Path("/nonexistent"))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="early_layers must be 1 to 3, found 4"):
        SYSTEM.formats[0].model_spec({**masked(), "early_layers": 4})
    with pytest.raises(ConfigError, match="is no multiple of patches"):
        SYSTEM.formats[1].model_spec({**tokenizer(), "image_size": 60})
    model = build(masked(), 0)
    with pytest.raises(ConfigError, match="does not know the inputs"):
        model(pixel_values=torch.zeros(1, 3, 64, 64), input_ids=torch.zeros(1, 1))
    with pytest.raises(ConfigError, match=r"pixel_values lie in -1 .. 1"):
        build(tokenizer(), 1)(pixel_values=torch.full((1, 3, 64, 64), 255.0))
