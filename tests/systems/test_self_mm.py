"""Self-MM: made labels equal MMSA's over epochs, a run goes on exactly, and bad input is refused by name."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from polymodal.check import randomise
from polymodal.check.evidence.self_mm import SMALL, samples
from polymodal.check.fixture import official_weights, read
from polymodal.check.sequences import batches_of
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.models.score_head import SCORES
from polymodal.systems import Budget, get
from polymodal.train.affect import UnimodalLabels, UnimodalLabelsLoss
from polymodal.train.loop import run_stage

SYSTEM = get("self-mm")
WIDTHS = {"fusion": 6, "text": 5, "audio": 3, "vision": 4}


class Said(nn.Module):
    """Gives what the official run was given in place of a model's outputs."""

    def forward(self, vectors, scores):
        return Output(embeddings=vectors, predictions={SCORES[name]: each[:, 0] for name, each in scores.items()})


def test_made_labels_are_those_of_mmsa():
    _, tensors = read("self_mm_labels")
    labels = tensors["in.labels"]
    count = len(labels)
    loss = UnimodalLabelsLoss(UnimodalLabels(samples=count), WIDTHS)
    losses, maps = [], []
    for epoch in range(1, 5):
        order = torch.from_numpy(np.argsort(randomise.uniform(f"order {epoch}", count)).copy())
        for begin in range(0, count, 4):
            index = order[begin : begin + 4]
            scores = {name: randomise.values(f"{name} {epoch} {begin}", (4, 1)) for name in WIDTHS}
            vectors = {
                name: randomise.values(f"{name} vector {epoch} {begin}", (4, width)) + 0.4 * labels[index, None]
                for name, width in WIDTHS.items()
            }
            found = loss(Said(), {"vectors": vectors, "scores": scores, "labels": labels[index], "index": index})
            losses.append(torch.stack(list(found.values())))
        maps.append(loss.labels.clone())
    assert (torch.stack(losses) - tensors["out.losses"]).abs().max() < 1e-5
    assert (torch.stack(maps) - tensors["out.labels"]).abs().max() < 1e-5
    assert not torch.equal(maps[-1][1], maps[0][1])


@pytest.mark.parametrize("fixture", ["self_mm", "self_mm_inferred", "self_mm_aligned"])
def test_vectors_that_labels_are_made_from(fixture):
    about, tensors = read(fixture)
    shapes = {name: each.shape for name, each in official_weights(about).items()}
    config = json.loads(about["config"]) or SYSTEM.formats[0].infer(shapes)
    spec = SYSTEM.formats[0].model_spec(config)
    model = spec.build().eval()
    keys = spec.keys[1 if fixture == "self_mm_inferred" else 0]
    model.load_state_dict(dict(keys.apply(official_weights(about))))
    with torch.no_grad():
        output = model(**{key[3:]: value for key, value in tensors.items() if key.startswith("in.")})
    for name, vector in output.embeddings.items():
        assert (vector - tensors[f"out.embeddings.{name}"]).abs().max() < 1e-4, name


def test_a_run_goes_on_exactly(tmp_path):
    stage = SYSTEM.recipe[0]
    stage = replace(stage, objective=UnimodalLabels(samples=48), budget=Budget(batch=16, steps=9))
    data = batches_of(samples(48), 16)

    def run(folder, *ends):
        torch.manual_seed(0)
        start = SYSTEM.formats[0].model_spec(SMALL).build()
        for end in ends:
            torch.manual_seed(0)
            model = SYSTEM.formats[0].model_spec(SMALL).build()
            model.load_state_dict(start.state_dict())
            losses = run_stage(model, stage, lambda step, generator: data(step), folder, stop_at=end)
        return losses, model.state_dict()

    whole, weights = run(tmp_path / "whole", 9)
    rest, again = run(tmp_path / "parts", 4, 9)
    assert rest == whole[4:]
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_first_epoch_learns_the_joint_score_alone():
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    loss, data = UnimodalLabels(samples=32).build(model), batches_of(samples(32), 16)
    for step in range(2):
        found = loss(model, data(step))
        assert found["score"] > 0 and not any(found[name] for name in ("text", "audio", "vision"))
    loss(model, data(0))
    assert all(loss(model, data(0))[name] > 0 for name in ("text", "audio", "vision"))
    loss.eval()
    assert list(loss(model, data(0))) == ["score"]


def test_refusals():
    model = SYSTEM.formats[0].model_spec(SMALL).build()
    batch = batches_of(samples(4), 4)(0)
    index = batch.pop("index")
    loss = UnimodalLabels(samples=3).build(model)
    with pytest.raises(ConfigError, match="need `index`"):
        loss(model, batch)
    with pytest.raises(ConfigError, match=r"index 3 of 3 samples; set objective\.samples"):
        loss(model, {**batch, "index": index})
    with pytest.raises(ConfigError, match="are of a SelfMM, not of a Linear"):
        UnimodalLabels(samples=3).build(nn.Linear(1, 1))
    labels = batch.pop("labels")
    with pytest.raises(PromptError, match="found no input_ids"):
        model(**{**batch, "input_ids": None}, labels=labels)
    with pytest.raises(PromptError, match="found no vision"):
        model(**{**batch, "vision": None})
    with pytest.raises(PromptError, match="one number of samples, found audio 4, vision 3"):
        model(**{**batch, "vision": batch["vision"][:3]})
    with pytest.raises(ConfigError, match="heads must have the keys fusion, text, audio, vision; found text"):
        SYSTEM.formats[0].model_spec({**SMALL, "heads": {"text": 3}})
    with pytest.raises(ConfigError, match=r"self-mm: .*rank"):
        SYSTEM.formats[0].model_spec({**SMALL, "rank": 3})
