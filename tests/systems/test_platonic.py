"""The alignment measure as a system: its config is the options of the official script."""

import json

import pytest
import torch

import polymodal as pm
from polymodal.errors import PolymodalError


def test_a_folder_of_options_is_a_measure(tmp_path) -> None:
    options = {"model_type": "platonic", "metric": "cycle_knn", "topk": 3, "exact": False}
    (tmp_path / "config.json").write_text(json.dumps(options))
    model = pm.load(tmp_path)
    assert model.system.id == "platonic" and model.module.config.topk == 3
    x = torch.randn(12, 2, 6, generator=torch.Generator().manual_seed(0))
    assert float(model.predict(x_feats=x, y_feats=x)["alignment"]) > 0.9


def test_an_option_that_is_none_is_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "platonic", "k": 3}))
    with pytest.raises(PolymodalError, match="does not know the option 'k'; it takes metric, topk"):
        pm.load(tmp_path)


def test_each_metric_is_a_variant() -> None:
    assert pm.load("platonic").module.config.metric == "mutual_knn"
    assert pm.load("platonic:unbiased-cka").module.config.metric == "unbiased_cka"
