"""What the recipe of the default model gives its stages to begin with, and what it keeps of them."""

import json
import random
from pathlib import Path

import collect
import features
import hear
import numpy as np
import pytest
import solve
import start
import torch
from torch import nn
from torch.nn.utils import parametrize

import polymodal as pm
from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.connectors.names import NamesConfig
from polymodal.systems.mini.components import adapters_in
from polymodal.weights.export import save_safetensors
from polymodal.weights.read import read_safetensors

TOKENS = [" cat", " cats", "Cat", " dog"]


def test_tokens_that_are_spelled_alike_begin_alike() -> None:
    table = start.spellings(TOKENS)
    near = table[:4] @ table[:4].T
    assert near[0, 1] > near[0, 3] and near[0, 2] > near[0, 3]
    assert torch.allclose(table[:4].norm(dim=1), torch.ones(4)) and not table[4].any()


def test_keys_from_spelling_stay_when_they_are_folded_in() -> None:
    torch.manual_seed(0)
    connector = CTCConnectorConfig(vocab_size=4, width=16, key_width=8).build(12, 10)
    nn.init.zeros_(connector.classes.weight)
    keys = start.SpellingKeys(start.spellings(TOKENS), 8)
    parametrize.register_parametrization(connector.classes, "weight", keys)
    features, lengths = torch.randn(1, 6, 12), torch.tensor([6])
    before = connector.decode(features, lengths)[0]
    names = {name for name, _ in connector.named_parameters() if "parametrizations" in name}
    assert names == {f"classes.parametrizations.weight.{name}" for name in ("original", "0.matrix")}
    parametrize.remove_parametrizations(connector.classes, "weight")
    assert torch.allclose(connector.decode(features, lengths)[0], before)
    assert torch.allclose(connector.classes.weight, keys.features @ keys.matrix)


def test_windows_hold_whole_recordings_one_after_the_other() -> None:
    rng = random.Random(0)
    lines = [{"length": rng.randrange(8000, 14 * hear.RATE), "number": number} for number in range(40)]
    found = hear.windows(lines, random.Random(1))
    assert sorted(line["number"] for window in found for line, _ in window) == list(range(40))
    for window in found:
        end = 0
        for line, at in window:
            assert at >= end and at + line["length"] <= hear.WINDOW * hear.RATE
            end = at + line["length"]


def test_views_are_found_by_picture_and_read_as_they_were_written(tmp_path: Path) -> None:
    written = {kind: np.random.default_rng(0).random((3, *features.SHAPE), np.float32).astype(np.float16)
               for kind in ("plain", "augmented")}  # fmt: skip
    for kind, maps in written.items():
        maps.tofile(tmp_path / f"{kind}.f16")
        marks = [["a", 0], ["b", 0], ["c", 0]] if kind == "plain" else [["a", 1], ["c", 1], ["a", 2]]
        (tmp_path / f"{kind}.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    stored = features.Stored(tmp_path)
    assert np.array_equal(stored.half("c", 0), written["plain"][2])
    assert np.array_equal(stored.of("a", 2).numpy(), written["augmented"][2].astype(np.float32))
    np.save(tmp_path / "7-1.npy", stored.half("c", 1))
    assert torch.equal(start.encoded(pm.image(str(tmp_path / "7-1.npy"))), stored.of("c", 1))


def test_no_test_picture_is_encoded() -> None:
    pictures = [{"id": split, "split": split, "corpus": "fluent"} for split in ("train", "val", "test", "style")]
    assert [(p["id"], view) for p, view in features.plan(pictures, augmented=False)] == [("train", 0), ("val", 0)]
    assert {p["id"] for p, _ in features.plan(pictures, augmented=True)} == {"train"}


def test_what_an_earlier_file_says_about_pictures_is_taken_over(tmp_path: Path) -> None:
    names = ("connector.dense.0.weight", "connector.confidence", "adapters.blocks.0.lora_A.weight", "calibration.yes")
    old = {name: torch.full((2,), 1.0) for name in (*names, "connector.mix", "connector.recall.weight")}
    save_safetensors(old, tmp_path / "old.safetensors", metadata={"names": "[]"})
    save_safetensors({name: torch.zeros(2) for name in old if name != names[2]}, tmp_path / "new.safetensors",
                     metadata={"names": "[1]"})  # fmt: skip
    collect.replaced(tmp_path / "new.safetensors", collect.spoken(tmp_path / "old.safetensors"))
    found = read_safetensors(tmp_path / "new.safetensors")
    assert {name for name in found if bool(found[name].all())} == set(names) and found.metadata["names"] == "[1]"


@pytest.mark.parametrize("stage", start.STAGES)
def test_every_stage_of_the_recipe_can_be_begun(stage: str) -> None:
    assert start.SYSTEM.variant(stage).name == stage and stage in [each.name for each in start.SYSTEM.recipe]


def views(connector: nn.Module) -> solve.Views:
    """Pictures of three names whose summaries are a linear map of the vectors of the names, with a little noise."""
    torch.manual_seed(0)
    lines = [{"split": split, "corpus": corpus, "right": [number % 3]}
             for split in ("train", "val") for corpus in ("fluent", "cifar10") for number in range(60)]  # fmt: skip
    main = torch.tensor([line["right"][0] for line in lines])
    summaries = connector.keys[main] @ torch.randn(connector.config.key_width, len(connector.centre))
    count = len(lines)
    return solve.Views(lines, np.arange(count), np.ones(count, bool), summaries + 0.05 * torch.randn_like(summaries))


def test_what_is_solved_names_the_pictures_and_weighs_both_ways() -> None:
    torch.manual_seed(1)
    connector = NamesConfig(names=5, classes=2, key_width=8, class_width=4, cells=2, cell_width=6).build(10, 16)
    connector.keys.copy_(nn.functional.normalize(torch.randn(5, 8), dim=-1))
    connector.class_index.copy_(torch.tensor([0, 2]))
    found = views(connector)
    rows = found.rows("train")
    weights = found.weights(rows)
    assert weights.sum().item() == pytest.approx(1) and weights[0].item() == pytest.approx(3 * weights[-1].item())
    solve.solve_sentence(connector, found)
    rows = found.rows("val", plain=True)
    right = torch.tensor([found.pictures[index]["right"][0] for index in found.of[rows]])
    summary = solve.standardised(connector, found, rows)
    assert (connector.embed_summary(summary) @ connector.keys.T).argmax(-1).equal(right)

    def missed() -> float:
        return nn.functional.cross_entropy(connector.logits(summary), right).item()

    before = missed()
    solve.fit_mix(connector, found)
    assert missed() < before


def test_a_released_file_has_no_adapters_before_they_are_trained() -> None:
    ours = {"connector.mix": torch.zeros(3), "adapters.blocks.0.mlp.up_proj.lora_A.weight": torch.ones(2)}
    assert list(adapters_in(ours)) == ["blocks.0.mlp.up_proj.lora_A.weight"]
    assert not adapters_in({"connector.mix": torch.zeros(3)})
