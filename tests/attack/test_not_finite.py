"""NaN is not an answer: weights that hold it and settings that make it are named, and JSON never says it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import polymodal as pm
from attack.broken_folders import write_classifiers
from polymodal.cli.output import print_json
from polymodal.cli.vectors import Row, write_jsonl
from polymodal.errors import NotFinite
from polymodal.generation.sampler import Readout, Sampler
from polymodal.generation.sampling import SamplingOptions
from tiny_folders import tiny

PICTURE = Image.new("RGB", (24, 20), (200, 90, 10))


def spoil(model: pm.Model, value: float) -> str:
    """One number of one weight; its name."""
    name, weight = next((name, x) for name, x in model.module.named_parameters() if "norm.weight" in name)
    with torch.no_grad():
        weight.flatten()[0] = value
    return name


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ask", [
    lambda model: model.chat("Hi", max_tokens=2),
    lambda model: model.chat("Hi", max_tokens=2, temperature=1.0),
    lambda model: model.chat("Hi", max_tokens=2, beams=2),
    lambda model: model.chat_batch(["Hi", "Ho"], max_tokens=2),
    lambda model: model.generate(input_ids=[[20, 21]], max_new_tokens=2),
], ids=["greedy", "sampled", "beams", "batch", "ids"])  # fmt: skip
def test_weights_that_make_nan_are_named(ask, value, tmp_path):
    model = tiny("cogvlm", tmp_path)
    ask(model)
    for name, weight in model.module.named_parameters():
        if name == "backbone.norm.weight":
            with torch.no_grad():
                weight[0] = value
    with pytest.raises(NotFinite, match=r"scores are NaN or infinite: the weights 'backbone.norm.weight' hold"):
        ask(model)


def test_vectors_and_probabilities(tmp_path):
    for folder in write_classifiers(tmp_path):
        model = pm.load(folder)
        name = spoil(model, float("nan"))
        with pytest.raises(NotFinite, match=f"model's probabilities are NaN or infinite: the weights '{name}' hold"):
            model.classify(PICTURE, ["cat", "dog", "boat"])
        if "embed" in model.can:
            with pytest.raises(NotFinite, match="the model's vectors are NaN or infinite"):
                model.embed([PICTURE])


def test_a_setting_that_makes_nan_is_told_apart_from_weights(tmp_path):
    model = tiny("cogvlm", tmp_path, rms_norm_eps=-1e30)
    with pytest.raises(NotFinite, match="all weights are numbers, so a setting of the config"):
        model.chat("Hi", max_tokens=2)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"logprobs": 2}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_score_in_one_row_is_enough(options, value):
    rows = [SamplingOptions(**options)] * 2
    logits = torch.randn(2, 50)
    Readout(rows).read(Sampler(rows, [[1], [2]]).choose(logits), logits)
    logits[1, 7] = value
    with pytest.raises(NotFinite, match="the model's scores are NaN or infinite"):
        Readout(rows).read(Sampler(rows, [[1], [2]]).choose(logits), logits)


def test_scores_of_minus_infinity_are_only_impossible():
    logits = torch.full((1, 9), float("-inf"))
    logits[0, 4] = 1.0
    options = [SamplingOptions()]
    assert Readout(options).read(Sampler(options, [[]]).choose(logits), logits)[0][0] == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_never_holds_nan(value, capsys, tmp_path: Path):
    document: Any = {"items": [{"probability": value}]}
    with pytest.raises(NotFinite, match="JSON"):
        print_json(document)
    with pytest.raises(NotFinite, match="JSON"):
        write_jsonl(tmp_path / "x.jsonl", [Row(kind="text", name="a", vector=np.array([value], "float32"))])
    assert "NaN" not in capsys.readouterr().out
    print_json({"items": [1.5, None]})
    assert json.loads(capsys.readouterr().out) == {"items": [1.5, None]}
