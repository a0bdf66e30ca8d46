"""PandaGPT's and NExT-GPT's words and files: templates byte for byte, published pieces, signals, generators."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check import fixture, randomise
from polymodal.check.diffusion_pipelines import tiny_diffusion, tiny_film, tiny_sound
from polymodal.check.evidence import next_gpt as evidence
from polymodal.check.record import MissingData
from polymodal.errors import ConfigError
from polymodal.generators.diffusion import AUDIO, IMAGE, VIDEO, run_pipeline
from polymodal.systems.next_gpt import checkpoint as next_gpt


def test_next_gpt_signals_are_the_last_of_the_vocabulary() -> None:
    signals = next_gpt.signals_of({"llama": {"vocab_size": 32038}})
    assert {name: (ids[0], len(ids)) for name, ids in signals.items()} == {
        "image": (32002, 4), "video": (32006, 24), "audio": (32030, 8)
    }  # fmt: skip
    with pytest.raises(ConfigError, match="qformer"):
        next_gpt.projectors_of({"text_fc_to_img_mode": "qformer", "llama": {}}, 8)


def test_the_three_published_pieces_are_joined(tmp_path: Path) -> None:
    about, tensors = fixture.read("pandagpt_senses")
    config, state = json.loads(about["config"]), randomise.state(json.loads(about["shapes"]))
    llama = "llama_model.base_model.model."
    pieces: dict[str, dict[str, Any]] = {"imagebind_huge.pth": {}, "pytorch_model.pt": {}, "vicuna": {}}
    for name, x in state.items():
        if name.startswith("visual_encoder."):
            pieces["imagebind_huge.pth"][name.removeprefix("visual_encoder.")] = x
        elif "lora_" in name or name.startswith("llama_proj"):
            pieces["pytorch_model.pt"][name] = x
        else:
            pieces["vicuna"][name.removeprefix(llama)] = x
    (tmp_path / "vicuna").mkdir()
    torch.save(pieces.pop("vicuna"), tmp_path / "vicuna" / "pytorch_model.bin")
    for name, part in pieces.items():
        torch.save(part, tmp_path / name)
    (tmp_path / "vicuna" / "config.json").write_text(json.dumps(config["llama"]))
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = pm.load(tmp_path, system="pandagpt")
    made = {name: randomise.values(name, shape) for name, shape in json.loads(about["made"]).items()}
    found = model.logits(input_ids=tensors["in.input_ids"], **made)
    torch.testing.assert_close(found, tensors["out.logits"], atol=1e-4, rtol=0)


def test_conditions_equal_the_official_projectors(tmp_path: Path) -> None:
    error, shapes = evidence.conditions_error(tmp_path)
    assert error <= 1e-4 and shapes == {"image": [2, 5, 768], "video": [1, 5, 1024], "audio": [1, 1, 512]}


def test_generators_are_told_conditions() -> None:
    told: dict[str, Any] = {}

    class Pipeline:
        images = frames = audios = "made"

        def __call__(self, **given: Any) -> "Pipeline":
            told.update(given)
            return self

    assert run_pipeline(Pipeline(), torch.zeros(77, 768), IMAGE, num_inference_steps=3) == "made"
    assert told["prompt_embeds"].shape == (1, 77, 768) and told["num_inference_steps"] == 3
    assert run_pipeline(Pipeline(), torch.zeros(77, 1024), VIDEO) == "made" and told["num_frames"] == 16
    assert run_pipeline(Pipeline(), torch.zeros(1, 512), AUDIO) == "made" and told["prompt_embeds"].shape == (1, 512)
    with pytest.raises(ConfigError, match=r"\[1, 1, E\]"):
        run_pipeline(Pipeline(), torch.zeros(2, 512), AUDIO)


def test_real_pipelines_draw_from_conditions() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")

    def told(*shape: int) -> dict[str, Any]:
        return {"num_inference_steps": 2, "negative_prompt_embeds": torch.zeros(1, *shape)}

    (picture,) = run_pipeline(tiny_diffusion(32), randomise.values("c", (5, 32)), IMAGE, **told(5, 32))
    assert isinstance(picture, Image.Image) and picture.size == (16, 16)
    small = {"height": 16, "width": 16, "num_frames": 3}
    film = run_pipeline(tiny_film(32), randomise.values("c", (5, 32)), VIDEO, **told(5, 32), **small)
    assert film.shape == (1, 3, 16, 16, 3)
    sound = run_pipeline(tiny_sound(32), randomise.values("c", (1, 32)), AUDIO, **told(32), audio_length_in_s=0.05)
    assert sound.shape == (1, 800)


def test_the_signal_of_an_answer_becomes_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    try:
        text, (picture,) = evidence.draw_one(tmp_path)
    except MissingData as missing:
        pytest.skip(str(missing))
    assert text.strip() == "Here:" and isinstance(picture, Image.Image)
