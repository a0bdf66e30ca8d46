"""`Model.predict`: regression heads by name, for a folder of MulT; not there for classes, which are logits."""

from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.mult import SYSTEM, published


def loaded(folder: Path, outputs: int) -> pm.Model:
    config = published((12, 7, 5), outputs, width=10, heads=2, depth=1)
    model_spec = SYSTEM.formats[0].model_spec(config)
    module = model_spec.build()
    randomise.fill(module)
    write_config(folder, config=config)
    write_weights(folder, module, model_spec.keys[0])
    return pm.load(folder)


def sequences() -> dict[str, torch.Tensor]:
    shapes = {"text": (3, 6, 12), "audio": (3, 9, 7), "vision": (3, 4, 5)}
    return {name: randomise.values(name, shape) for name, shape in shapes.items()}


def test_a_score_for_each_item(tmp_path: Path) -> None:
    model = loaded(tmp_path, 1)
    assert "predict" in model.can
    found = model.predict(**sequences())
    assert set(found) == {"score"} and found["score"].shape == (3,)
    assert torch.equal(found["score"], model.logits(**sequences())[:, 0])
    alone = model.predict(**{name: value[1:2] for name, value in sequences().items()})
    assert (alone["score"] - found["score"][1:2]).abs().max() <= 1e-5
    with pytest.raises(PromptError, match=r"vision must be \[B, T, 5\]"):
        model.predict(**{**sequences(), "vision": torch.zeros(3, 4, 6)})


def test_classes_are_logits_and_no_predictions(tmp_path: Path) -> None:
    model = loaded(tmp_path, 8)
    assert "predict" not in model.can and model.logits(**sequences()).shape == (3, 8)
    with pytest.raises(ConfigError, match="cannot predict; it takes text, audio, video and offers logits"):
        model.predict(**sequences())
