"""Every pair of an objective and an assembly in the catalogue learns from data files, or is named here with the reason.

tests/api/test_training_kinds.py runs one stage of each kind of data; here are the other models of conversations.
"""

from pathlib import Path

import pytest
from test_training_kinds import RUNS, SET

import polymodal as pm
from polymodal import systems
from polymodal.api import training
from stage_folders import questions, write_folder
from tiny_folders import tiny

TALKS = [
    ("pali-x", "finetune"),
    ("mm-interleaved", "pretrain"),
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
NOT_YET = "the objective has no `collator` yet: its batches are made by hand"
CANNOT = {
    ("region_pretraining", "RegionText"): "files of a detector's regions are not read by the trainer",
    ("conditional_masking", "RegionText"): "files of a detector's regions are not read by the trainer",
    ("masked_data_modeling", "Multiway"): NOT_YET,  # BEiT-3
    ("utterance_classes", "DialogueRNN"): "files of features, in tests/cli/test_features.py",
    ("emotion_labels", "Mesm"): NOT_YET,
    ("draw_or_find", "SignalTokenLM"): NOT_YET,  # GILL
    ("spoken_pictures", "SignalTokenLM"): NOT_YET,  # MiniGPT-5
    ("classification", "TomBert"): "no data file names a target in a sentence yet",
    ("classification", "DecompositionRelation"): "D&R Net: no data file holds adjective-noun pairs yet",
    ("classification", "JointDictionary"): "MDL: its groups of features are in no data file yet",
    ("dictionaries", "JointDictionary"): "MDL: its groups of features are in no data file yet",
    ("emotion_labels", "ContextualMemoryFusion"): NOT_YET,  # C-MFN
    ("language_modeling", "TwoTableLM"): "LWM: not tried from data files yet",
    ("language_modeling", "VisualRegressionLM"): "Emu: not tried from data files yet",
    ("masked_image_modeling", "ClassTokenPretraining"): "BEiT v2: its codes come from a codec of its own format",
    ("vector_quantized_distillation", "ClassTokenPretraining"): "BEiT v2: features of the teacher come with the batch",
    ("masked_modality_modeling", "MaskedModalities"): "4M: ids of many modalities of a thing are in no data file yet",
    ("feature_coding", "MaskedModalities"): "4M: classes and maps that its codecs learn from are in no data file yet",
    ("feature_regression", "FeatureRegressionLM"): NOT_YET,  # CoDi-2
    ("bridging_alignment", "JointDiffusion"): "recordings with captions, in tests/systems/test_codi.py",
    ("latent_alignment", "JointDiffusion"): "videos with sound, in tests/systems/test_codi.py",
    ("classification", "RegionText"): "files of a detector's regions are not read by the trainer",
}


def pair_of(name: str, stage: str) -> tuple[str, str]:
    system = systems.get(name.partition(":")[0])
    chosen = [each for each in system.recipe if each.name == stage]
    return chosen[0].objective.name, system.assembly


def test_every_pair_of_objective_and_assembly_is_run_or_named() -> None:
    every = {(stage.objective.name, system.assembly) for system in systems.every() for stage in system.recipe}
    run = {pair_of(name, stage) for name, stage, *_ in [*RUNS, *TALKS, *TOYS, *SMALL.items()]}
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
