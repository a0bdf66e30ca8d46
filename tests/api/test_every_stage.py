"""Every pair of an objective and an assembly in the catalogue learns from data files, or is named here with the reason.

tests/api/test_training_kinds.py and tests/api/test_more_kinds.py run one stage of each kind of data; here are the other
models of conversations.
"""

from pathlib import Path

import pytest
from test_more_kinds import RUNS as MORE
from test_training_kinds import RUNS, SET

import polymodal as pm
from polymodal import systems
from polymodal.api import training
from stage_folders import questions, write_folder
from tiny_folders import tiny

TALKS = [
    ("pali-x", "finetune"),
    ("unified-io", "multi-task"),
    ("unified-io-2", "instruct"),
    ("mm-interleaved", "pretrain"),
    ("gemini", "instruct"),
    ("next-gpt", "encode"),
    ("pandagpt", "instruct"),
    ("modaverse", "align"),
]
TOYS = [("mini", "align"), ("mini", "hear")]  # tests/api/test_names_and_speech.py, on toys with its connectors
SMALL = {  # of tests/tiny_folders.py: one of each way of fusion
    "flamingo": "mixture",
    "cogvlm": "instruct",
    "llava-1.5": "instruct-lora",
    "qwen2-vl": "instruct",
    "viscpm": "pretrain",
    "kosmos-1": "instruct",
    "chameleon": "align",
}
CANNOT = {
    ("utterance_classes", "DialogueRNN"): "files of features, in tests/cli/test_features.py",
    ("bridging_alignment", "JointDiffusion"): "recordings with captions, in tests/systems/test_codi.py",
    ("latent_alignment", "JointDiffusion"): "videos with sound, in tests/systems/test_codi.py",
}


def pair_of(name: str, stage: str) -> tuple[str, str]:
    system = systems.get(name.partition(":")[0])
    chosen = [each for each in system.recipe if each.name == stage]
    return chosen[0].objective.name, system.assembly


def test_every_pair_of_objective_and_assembly_is_run_or_named() -> None:
    every = {(stage.objective.name, system.assembly) for system in systems.every() for stage in system.recipe}
    run = {pair_of(name, stage) for name, stage, *_ in [*RUNS, *MORE, *TALKS, *TOYS, *SMALL.items()]}
    missing = sorted(every - run - CANNOT.keys())
    assert not missing, f"run them from data files here, or say why that cannot be: {missing}"
    assert not CANNOT.keys() & run and not CANNOT.keys() - every


@pytest.mark.parametrize(("name", "stage"), TALKS)
def test_other_assemblies_learn_from_conversations(name: str, stage: str, tmp_path: Path) -> None:
    learn(pm.load(write_folder(name, tmp_path / "model"), dtype="float32"), stage, tmp_path)


@pytest.mark.parametrize(("name", "stage"), SMALL.items())
def test_ways_of_fusion_learn_from_conversations(name: str, stage: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    learn(tiny(name, tmp_path / "model"), stage, tmp_path)


def learn(model: pm.Model, stage: str, folder: Path) -> None:
    """Two steps on questions about pictures."""
    data = questions(folder)
    chosen = training.stage_of(model, stage)
    settings = [*SET, "budget.batch=2", "budget.steps=2", "budget.max_length=500"]
    if chosen.objective.name == "sum_of_sources":
        settings.append('objective.weights={"talks": 1.0}')
    if model.system.id == "kosmos-1":  # a block of the published depth
        settings.append("train=connectors.image,backbone")
    if chosen.lora:
        settings.append('lora={"backbone.blocks": {"rank": 2, "alpha": 4}}')
    losses = training.fit(model, [data], out=folder / "run", stage=stage, settings=settings)
    assert len(losses) == 2
