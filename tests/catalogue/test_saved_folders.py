"""What was loaded from a published checkpoint and changed is saved in the published layout, for every system."""

from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.check import engine, library
from polymodal.check.compare import error_of, features_error
from polymodal.weights.describe import format_of
from polymodal.weights.read import read

EVIDENCE = {system.id: engine.evidence_of(system) for system in engine.all_checked()}


# What only official code writes, or nobody's, though the library's models compute what its code does.
OWN = ("joined as the official code", "paper: ")
JOINED = {id for id, evidence in EVIDENCE.items() if evidence and any(words in evidence.oracle for words in OWN)}


def in_library_layout(case) -> bool:
    return case.needs == "transformers" and not case.file and "official" not in case.name


def cases(id, library):
    """Some of a system's cases: each fourth of transformers' own layouts, each of the others."""
    chosen = [case for case in EVIDENCE[id].cases if (in_library_layout(case) and id not in JOINED) == library]
    return chosen[::4] if library else chosen


LIBRARY = [pytest.param(case, id=f"{id}-{case.name}") for id in EVIDENCE for case in cases(id, True)]
OFFICIAL = [pytest.param(case, id=f"{id}-{case.name}") for id in EVIDENCE for case in cases(id, False)]
# transformers 5 reads neither of its own two norms called layernorm back as it wrote them (beit.layernorm, layernorm).
NOT_READ_BACK = "masked model, one table for all blocks"
RESIZED = "resized positions"  # cases with other positions than the checkpoint's table has


def changed(folder: Path, case, call) -> pm.Model:
    """The model of a folder with every parameter changed, as training would."""
    model = pm.load(folder / case.file if case.file else folder, **call)
    with torch.no_grad():
        for value in model.module.parameters():
            value.mul_(1.01)
    return model


def names_in(folder: Path) -> dict[str, list[str]]:
    """Weights files of a folder -> the names in them."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz")]
    found = {path: read(path, format_of(path)) if format_of(path) != "torch" else torch_names(path) for path in paths}
    return {path.relative_to(folder).as_posix(): sorted(names) for path, names in found.items()}


def torch_names(path: Path) -> list[str]:
    whole = torch.load(path, weights_only=True)
    return [f"{key}.{name}" for key, inner in whole.items() if isinstance(inner, dict) for name in inner] or list(whole)


def equal(model: pm.Model, other: pm.Model) -> bool:
    mine, theirs = model.module.state_dict(), other.module.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def no_steps(oracle, prompt, options):
    """The ids of 16 greedy steps are not needed here."""
    return torch.zeros(len(next(iter(prompt.values()))), 0, dtype=torch.int64)


@pytest.mark.parametrize("case", LIBRARY)
def test_transformers_computes_the_same_from_what_is_saved(case, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(library, "greedy", no_steps)
    source, again = tmp_path / "source", tmp_path / "again"
    source.mkdir()
    again.mkdir()
    model = changed(source, case, case.make(source).call)
    saved = model.save(tmp_path / "saved")
    assert equal(pm.load(saved), model)
    assert not (saved / "polymodal.extra").is_file()

    def from_saved(transformers, name, config):
        oracle, info = getattr(transformers, name).from_pretrained(saved, output_loading_info=True)
        _, before = getattr(transformers, name).from_pretrained(source, output_loading_info=True)
        assert {key: sorted(map(str, info[key])) for key in info} == {
            key: sorted(map(str, before[key])) for key in before
        }
        return oracle.eval()

    monkeypatch.setattr(library, "built", from_saved)
    theirs = case.make(again)  # the same inputs, read by the same library from what we saved
    if case.name == NOT_READ_BACK:
        return
    if theirs.logits is not None:
        ours = model.logits(**theirs.inputs)
        assert error_of(ours, theirs.logits, theirs.inputs) <= 1e-5 * max(1.0, float(ours.abs().max()))
    for name, features in (theirs.features or {}).items():
        assert features_error(model.features(**theirs.inputs)[name], features) <= 1e-4


@pytest.mark.parametrize("case", OFFICIAL)
def test_an_official_checkpoint_is_saved_in_its_own_files(case, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    if case.needs:
        pytest.importorskip(case.needs)
    call = case.make(source).call
    before = names_in(source)
    model = changed(source, case, call)
    saved = model.save(tmp_path / "saved")
    assert equal(pm.load(saved), model)
    # Positions that were resized and trained: more than the table can hold, so that their own values go beside it.
    assert (saved / "polymodal.extra").is_file() == (RESIZED in case.name)
    if not model.system.formats[model.variant.format].one_file:
        assert names_in(saved) == before
    else:  # LLaVA's tower, which the config finds by a path, goes into the checkpoint as in releases that trained it
        assert list(names_in(saved)) == ["model.safetensors"]
