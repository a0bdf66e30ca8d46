"""MDL: codes are the optimum, those of one group the elastic net's, atoms learn, and bad input is refused by name."""

import pytest
import torch

from polymodal.check.evidence.mdl import SMALL, chosen, samples
from polymodal.check.fixture import read
from polymodal.errors import ConfigError, PromptError
from polymodal.models.joint_dictionary import JointDictionaryConfig
from polymodal.systems import get
from polymodal.train.dictionary import Dictionaries

SPEC = get("mdl").formats[0].model_spec
WITHOUT_LABELS = {name: value for name, value in samples().items() if name != "labels"}


def test_codes_of_one_group_are_an_elastic_net():
    about, tensors = read("mdl_elastic_net")
    given, atoms = tensors["in.visual"], tensors["out.atoms"]
    config = JointDictionaryConfig(features={"visual": given.shape[1]}, atoms=atoms.shape[1],
                                   joint=float(about["joint"]), ridge=float(about["ridge"]))  # fmt: skip
    model = config.build()
    model.atoms["visual"].data = atoms
    found = model.features(visual=given)["visual"]
    assert (found - tensors["out.codes"]).abs().max() < 1e-5
    assert 0 < (found != 0).float().mean() < 0.9


def test_atoms_are_used_in_all_groups_or_in_none_and_nothing_near_is_better():
    torch.manual_seed(0)
    model = SPEC({**SMALL, "joint": 1.5}).build()
    model.measure(WITHOUT_LABELS)
    groups = model.groups(WITHOUT_LABELS)
    codes = model.codes(groups)
    used = torch.stack([code != 0 for code in codes.values()])
    assert torch.equal(used.any(0), used.all(0)) and 0 < used.float().mean() < 1
    best = sum(model.objective(groups, codes).values())
    for scale in (1e-2, 1e-1):
        near = {
            name: code + scale * torch.randn_like(code) * (torch.rand_like(code) < 0.2) for name, code in codes.items()
        }
        assert sum(model.objective(groups, near).values()) > best


def test_z_scores_are_of_the_first_batch_and_long_atoms_are_shortened():
    model = SPEC(SMALL).build()
    loss = Dictionaries().build(model)
    loss(model, chosen(0))
    kept = {name: value.clone() for name, value in model.mean.items()}
    assert all(torch.allclose(kept[name], chosen(0)[name].mean(0), atol=1e-6) for name in kept)
    loss(model, chosen(1))
    assert all(torch.equal(kept[name], model.mean[name]) for name in kept)
    before = model.features(**WITHOUT_LABELS)["topic"]
    model.atoms["topic"].data *= 3
    assert torch.allclose(model.features(**WITHOUT_LABELS)["topic"], before, atol=1e-5)
    found = loss(model, chosen(1))
    found["reconstruction"].backward()
    assert model.atoms["visual"].grad.abs().max() > 0 and model.head.weight.grad is None


def test_refusals():
    model = SPEC(SMALL).build()
    for change, words in (
        ({"topic": None}, "found no topic"),
        ({"topic": torch.zeros(96, 5)}, r"topic must be \[B, T, 27\] or \[B, 27\], found \[96, 5\]"),
        ({"topic": torch.zeros(96, 2, 27)}, r"topic must be \[B, 27\], one vector a user; found \[96, 2, 27\]"),
    ):
        with pytest.raises(PromptError, match=words):
            model(**{**WITHOUT_LABELS, **change})
    for change, words in (
        ({"features": {"face": 3}}, "features are some of social, profile"),
        ({"ridge": 0.0}, "ridge above 0"),
        ({"atoms": 0}, "atoms of 1 or more"),
        ({"penalty": 1.0}, "mdl: "),
    ):
        with pytest.raises(ConfigError, match=words):
            SPEC({**SMALL, **change})
    with pytest.raises(ConfigError, match="are of a JointDictionary, not of a Linear"):
        Dictionaries().build(torch.nn.Linear(1, 1))
