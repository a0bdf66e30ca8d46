"""MUStARD's baseline: a fit equals scikit-learn's, a run goes on, and bad input is refused by name."""

import pytest
import torch

from polymodal.check.fixture import read
from polymodal.errors import ConfigError, PromptError
from polymodal.models.kernel_machine import KernelMachineConfig
from polymodal.systems import get
from polymodal.train.support_vectors import SupportVectors

WIDTHS = {"text": 7, "vision": 11, "audio": 5}


def given(fixture):
    about, tensors = read(fixture)
    train = {key[10:]: value for key, value in tensors.items() if key.startswith("out.train.")}
    return about, train, tensors


@pytest.mark.parametrize("name", ["early_fusion_svm_scaled", "early_fusion_svm_plain"])
def test_a_fit_decides_as_scikit_learn(name):
    about, train, tensors = given(name)
    wanted = train.pop("decision")
    model = KernelMachineConfig(features=WIDTHS, vectors=60).build()
    objective = SupportVectors(cost=float(about["cost"]), scaled=about["scaled"] == "1", tolerance=1e-8)
    loss = objective.build(model)
    assert float(loss(model, train)["gap"]) == pytest.approx(1)
    assert float(loss(model, train)["gap"]) < 1e-6
    train.pop("labels")
    assert (model(**train).predictions["decision"] - wanted).abs().max() < 1e-4
    test = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    assert (model(**test).logits - tensors["out.logits"]).abs().max() < 1e-4


def test_steps_of_few_pairs_reach_the_same_machine():
    about, train, _ = given("early_fusion_svm_scaled")
    wanted = train.pop("decision")
    objective = SupportVectors(cost=float(about["cost"]), updates=40, tolerance=1e-8)
    model = KernelMachineConfig(features=WIDTHS, vectors=64).build()
    loss = objective.build(model)
    gaps = [float(loss(model, train)["gap"]) for _ in range(10)]
    kept = model.state_dict(), loss.state_dict()
    model, loss = KernelMachineConfig(features=WIDTHS, vectors=64).build(), objective.build(model)
    model.load_state_dict(kept[0])
    loss.load_state_dict(kept[1])
    gaps += [float(loss(model, train)["gap"]) for _ in range(40)]
    assert gaps[0] == pytest.approx(1) and gaps[-1] < 1e-5 and gaps[5] < gaps[1]
    train.pop("labels")
    assert (model(**train).predictions["decision"] - wanted).abs().max() < 1e-3


def test_refusals():
    model = KernelMachineConfig(features=WIDTHS, vectors=3).build()
    good = {name: torch.randn(4, 2, width) for name, width in WIDTHS.items()}
    for wrong, words in (
        ({**good, "audio": None}, "expected text, vision, audio, found no audio"),
        ({**good, "vision": torch.randn(4, 2, 5)}, r"vision must be \[B, T, 11\] or \[B, 11\], found \[4, 2, 5\]"),
        ({**good, "text": torch.randn(3, 2, 7)}, "one number of samples, found text 3, vision 4, audio 4"),
        ({**good, "audio_lengths": torch.tensor([1, 2, 3, 1])}, r"audio_lengths must be 1 to 2, found \[1, 2, 3, 1\]"),
        ({**good, "audio_lengths": torch.tensor([1])}, r"audio_lengths must be \[4\], found \[1\]"),
    ):
        with pytest.raises(PromptError, match=words):
            model(**wrong)
    with pytest.raises(ConfigError, match=r"does not know the inputs \['face'\]"):
        model(**good, face=torch.zeros(1))
    with pytest.raises(ConfigError, match="4 training samples, room for 3 vectors"):
        SupportVectors().build(model)(model, {**good, "labels": torch.tensor([0, 1, 0, 1])})
    with pytest.raises(ConfigError, match=r"classes 0 and 1, found \[1.0\]"):
        SupportVectors().build(model)(model, {**good, "labels": torch.ones(4)})
    with pytest.raises(ConfigError, match="are of a KernelMachine, not of a Linear"):
        SupportVectors().build(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="features are some of text, vision, audio, author, context"):
        KernelMachineConfig(features={"face": 3}, vectors=3)
    parse = get("early-fusion-svm").formats[0].model_spec
    with pytest.raises(ConfigError, match="kernel"):
        parse({"model_type": "early_fusion_svm", "features": WIDTHS, "vectors": 3, "kernel": "linear"})


def test_held_out_samples_are_measured_and_not_learned():
    _, train, tensors = given("early_fusion_svm_scaled")
    train.pop("decision")
    model = KernelMachineConfig(features=WIDTHS, vectors=60).build()
    loss = SupportVectors(cost=10.0).build(model)
    loss(model, train)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    held = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    found = loss.eval()(model, {**held, "labels": torch.tensor([0, 1] * 4 + [0])})
    assert list(found) == ["hinge"] and all(torch.equal(kept[name], model.state_dict()[name]) for name in kept)
