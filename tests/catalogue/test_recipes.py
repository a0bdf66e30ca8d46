"""Every stage of every system: its record is whole, its objective can be built, what it names is there."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from polymodal import systems
from polymodal.check import engine
from polymodal.check.record import Evidence
from polymodal.cli.drawing import draw
from polymodal.errors import ConfigError, UnknownName
from polymodal.systems import find
from polymodal.train.objectives import Loss, Objective, SumOfSources
from polymodal.train.optimizer import AdamW
from polymodal.train.parameters import trained_numbers
from polymodal.train.recipe import KINDS, LoRAConfig, PartRate, as_dict
from polymodal.weights.build import build_empty

STAGES = [pytest.param(s, stage, id=f"{s.id}-{stage.name}") for s in systems.every() for stage in s.recipe]


def test_names_are_unique_and_records_are_plain_data() -> None:
    for system in systems.every():
        names = [stage.name for stage in system.recipe]
        assert len(names) == len(set(names)), system.id
        json.dumps([as_dict(stage) for stage in system.recipe])


@pytest.mark.parametrize(("system", "stage"), STAGES)
def test_a_variant_holds_all_that_a_stage_names_and_learns_its_objective(system, stage) -> None:
    why = []
    for variant in system.variants:
        module = build_empty(partial(system.module, variant))
        with torch.device("meta"):
            count, absent = trained_numbers(module, stage)
            try:
                loss = stage.objective.build(module)
            except ConfigError as problem:
                why.append(f"{variant.name}: {problem}")
                continue
        if not absent:
            assert isinstance(loss, Loss) and isinstance(stage.objective, Objective) and count
            return
        why.append(f"{variant.name} has no {', '.join(absent)}")
    raise AssertionError("; ".join(why))


@pytest.mark.parametrize(("system", "stage"), STAGES)
def test_a_record_says_where_it_starts_and_on_what(system, stage) -> None:
    earlier = [each.name for each in system.recipe[: system.recipe.index(stage)]]
    if stage.start not in {"", "scratch", "parts", *earlier}:
        try:
            find(stage.start)
        except UnknownName:
            pytest.fail(f"start {stage.start!r} is neither an earlier stage nor a model")
    assert all(source.kind in KINDS for source in stage.data), stage.data
    shares = [source.share for source in stage.data if source.share is not None]
    assert not shares or len(shares) < len(stage.data) or sum(shares) == pytest.approx(1, abs=1e-6)
    if isinstance(stage.objective, SumOfSources):
        assert set(stage.objective.weights) == {source.name for source in stage.data}
    if stage.optimizer.lr is not None and stage.schedule is not None:
        try:
            steps = stage.steps
        except ConfigError as problem:
            assert "its number of steps is not known" in str(problem)
            return
        try:
            rates = [stage.rate(step) for step in (0, steps // 2, steps - 1)]
        except ConfigError as problem:
            assert "has no published end" in str(problem)
            return
        assert all(0 <= rate <= stage.optimizer.lr for rate in rates) and max(rates) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": ("connector.image",)}, "trains 'connector.image', .* nearest: connectors.image"),
        ({"frozen": ("encoders.image.blocks.24",)}, r"freezes 'encoders.image.blocks.24', .* nearest: .*blocks.2"),
        ({"lora": {"backbone.layers": LoRAConfig()}}, "puts low-rank paths below 'backbone.layers'"),
        ({"rates": (PartRate(prefix="encoders.vision", factor=0.1),)}, "has a rate for 'encoders.vision'"),
        ({"optimizer": AdamW(undecayed=("zzz",))}, "leaves undecayed 'zzz', .* the model has backbone, connectors"),
    ],
)
def test_a_stage_that_names_nothing_at_published_size_is_refused_with_the_nearest_names(changes, words) -> None:
    system = systems.get("sharegpt4v")
    system.check_recipe()
    wrong = replace(system, recipe=(replace(system.recipe[0], **changes),))
    with pytest.raises(ConfigError, match=rf"stage pretrain of sharegpt4v {words}"):
        wrong.check_recipe()
    with pytest.raises(ConfigError, match=r"names no parameter of sharegpt4v \(7b, 13b\)"):
        draw(wrong, wrong.variants[0])
    found = engine.guarded(lambda: engine.recipe(wrong, Evidence(oracle="none", cases=()), print))
    assert found["ok"] is False and "names no parameter" in found["why"]
