"""A step that is computed in parts is the step: losses are means over all that is learned in it, and random numbers
follow from a sample's place in the run."""

from pathlib import Path

import pytest

import polymodal as pm
from method_folders import DATA as METHODS
from method_folders import WRITTEN as METHOD_FOLDERS
from modality_folders import DATA as MODALITIES
from modality_folders import WRITTEN as MODALITY_FOLDERS
from polymodal.api.training import TrainOptions, fit
from stage_folders import DATA, write_folder

SET = ["budget.batch=6", "budget.steps=1", "optimizer.lr=0.001", "budget.precision=float32",
       'schedule={"type": "Constant"}', "lora={}"]  # fmt: skip
RUNS = [  # VisCPM-Paint's condition counts padding, so that its rows depend on what stands beside them
    ("fourm", "pretrain-7", "modalities"),
    ("codi-2", "joint", "answers that show pictures"),
    ("beit:masked", "masked-pictures", "coded images"),
    ("minigpt-5", "align", "wishes for pictures"),  # noise and times of diffusion, and conditions that are dropped
]


@pytest.mark.parametrize(("name", "stage", "kind"), RUNS)
def test_a_step_in_parts_is_the_step(name: str, stage: str, kind: str, tmp_path: Path) -> None:
    written = {**METHOD_FOLDERS, **MODALITY_FOLDERS}
    folder = tmp_path / "model"
    folder.mkdir()
    written[name](folder) if name in written else write_folder(name, folder)
    data = {**DATA, **METHODS, **MODALITIES}[kind](tmp_path)
    found = []
    for rows in (None, 2):
        model = pm.load(folder, dtype="float32")
        out, options = tmp_path / f"run-{rows}", TrainOptions(micro_batch=rows)
        found += fit(model, [data], out=out, stage=stage, settings=SET, options=options)
    assert found[0] == pytest.approx(found[1], abs=1e-5)
