"""Lines of modalities (4M), maps of places (its codecs) and answers that show pictures (CoDi-2) as batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polymodal as pm
from modality_folders import WRITTEN, modalities, shown
from polymodal.api.training import TrainOptions, collator_of, fit, learner_of, stage_of
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.records import sample_of
from polymodal.errors import ConfigError, PromptError
from polymodal.train.collator import Collator, WrongKind
from stage_folders import lines


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pm.Model]:
    found = {}
    for name, write in WRITTEN.items():
        folder = tmp_path_factory.mktemp("model")
        write(folder)
        found[name] = pm.load(folder, dtype="float32")
    return found


def collator(model: pm.Model, stage: str) -> Any:
    chosen = stage_of(model, stage)
    return collator_of(model, chosen, learner_of(model, chosen, TrainOptions()))


def sample(record: dict[str, Any], folder: Path) -> Any:
    return sample_of(record, "line", lambda path: folder / path)


def test_a_line_may_lack_modalities(models: dict[str, pm.Model], tmp_path: Path) -> None:
    """What a thing lacks is neither given nor asked for, and a loss counts what is asked."""
    taught: Collator = collator(models["fourm"], "pretrain-7")
    data = open_dataset(modalities(tmp_path))
    samples = [data.sample(row) for row in (0, 1, 2)]
    items = [taught.item(each) for each in samples]
    assert [sorted(item) for item in items] == [
        ["caption"], ["caption", "det", "rgb@224"], ["caption", "det", "rgb@224", "tok_depth@224"]]  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    made = taught.batch([taught.drawn(each, draw) for each in samples], draw)
    for row, item in enumerate(items):
        for name in ("caption", "det", "rgb@224", "tok_depth@224"):
            if name not in item:
                assert made.batch[f"{name}.input_mask"][row].all() and made.batch[f"{name}.target_mask"][row].all()
    with torch.no_grad():
        losses = models["fourm"].module(**made.batch, return_loss=True).losses
    assert set(losses) == set(made.counts) == {"caption", "det", "tok_depth@224"}
    assert made.counts["caption"] > 0 and not torch.isnan(torch.stack(list(losses.values()))).any()


def test_boxes_are_hidden_whole_and_read_back(models: dict[str, pm.Model]) -> None:
    model = models["fourm"]
    taught = collator(model, "pretrain-7")
    things = [{"label": "dog", "box": [0.5, 0.5, 1.0, 1.0]}, {"label": "cat", "box": [0.0, 0.0, 1.0, 1.0]}]
    pieces = taught.value("det", things)
    said = [taught.turner.tokenizer.decode(piece, skip_special=False) for piece in pieces]
    assert said[0].endswith("cat") and said[1].endswith("dog")  # nearest to the corner first
    assert said[0].startswith("v0=0")


CAPTION = {"caption": "a"}
WRONG = [
    ({"depth": CAPTION}, WrongKind, "has no modalities"),
    ({"modalities": {"thermal": "hot"}}, PromptError, "has the modality 'thermal'; the model has"),
    ({"modalities": {"t5_caption": {"array": [[1.0] * 5]}}}, PromptError, "none of the modalities that this stage"),
    ({"modalities": {"tok_depth@224": {"array": [[1, 2], [3, 4]]}}}, PromptError, r"expected ids \[4, 4\]"),
    ({"modalities": {"tok_depth@224": {"array": [[0.5] * 4] * 4}}}, PromptError, "as whole numbers"),
    ({"modalities": {"tok_depth@224": {"array": [[16] * 4] * 4}}}, PromptError, "ids lie in 0 .. 15, found 16 .. 16"),
    ({"modalities": {"tok_depth@224": "depth.npy"}}, PromptError, "expected numbers or the name of a .npy file"),
    ({"modalities": {"rgb@224": "a picture"}}, PromptError, "expected a picture, found str"),
    ({"modalities": {"caption": {"text": "a"}}}, PromptError, "expected a text or ids, found dict"),
    ({"modalities": {"caption": [5000]}}, PromptError, "ids lie in 0"),
    ({"modalities": {"det": [{"label": "cat", "box": [0.9, 0, 0.1, 1]}]}}, PromptError, "left <= right"),
    ({"modalities": {"det": [{"box": [0, 0, 1, 1]}]}}, PromptError, 'expected {"label"'),
    ({"modalities": {"det": [{"label": "cat", "box": [0, 0, 1, "far"]}]}}, PromptError, 'expected {"label"'),
]


@pytest.mark.parametrize(("record", "error", "said"), WRONG)
def test_what_does_not_fit_a_modality_is_refused(
    models: dict[str, pm.Model], tmp_path: Path, record: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {"text": "words"} if "depth" in record else record
    with pytest.raises(error, match=said):
        collator(models["fourm"], "pretrain-7").item(sample(given, tmp_path))


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.zeros((8, 8), int), r"its map is \[8, 8\]; expected \[32, 32\]"),
     (np.zeros((32, 32), "float32"), "whole numbers"), (np.full((32, 32), 8), "classes 0 .. 7")],
)  # fmt: skip
def test_a_map_that_does_not_fit_is_refused(
    models: dict[str, pm.Model], tmp_path: Path, values: np.ndarray, said: str
) -> None:
    taught = collator(models["fourm:codec"], "codec")
    np.save(tmp_path / "map.npy", values)
    with pytest.raises(PromptError, match=said):
        taught.item(sample({"map": "map.npy"}, tmp_path))
    with pytest.raises(WrongKind, match="has no map"):
        taught.item(sample({"text": "words"}, tmp_path))


def test_vectors_of_answers_are_foretold(models: dict[str, pm.Model], tmp_path: Path) -> None:
    """Each picture of an answer stands behind one mark; its places have no label."""
    model = models["codi-2"]
    taught, data = collator(model, "joint"), open_dataset(shown(tmp_path))
    assert list(taught.marks) == ["image"]
    items = [taught.item(data.sample(row)) for row in range(3)]
    made = taught.batch(items, torch.Generator())
    ids, wanted, labels = (made.batch[name] for name in ("input_ids", "wanted", "labels"))
    tokens, mark = model.processor.placeholders["image"], list(model.module.signals["image"])
    assert torch.equal(wanted, ids == tokens) and wanted.any(1).tolist() == [False, True, True]
    assert (labels[wanted] == -100).all() and made.counts == {"features": int(wanted.sum())}
    for row in (1, 2):
        first = int(wanted[row].long().argmax())
        assert ids[row, first - len(mark) : first].tolist() == mark
        assert ids[row].tolist().count(mark[0]) == 1  # not twice where the data has it


def test_words_alone_teach_no_vectors(models: dict[str, pm.Model], tmp_path: Path) -> None:
    model = models["codi-2"]
    made = collator(model, "joint").blank()
    loss = stage_of(model, "joint").objective.build(model.module)
    with torch.no_grad():
        assert float(loss(model.module, made.batch)["features"]) == 0.0


def test_a_run_names_what_it_expects(models: dict[str, pm.Model], tmp_path: Path) -> None:
    path = lines(tmp_path / "talks.jsonl", [{"text": "words"}])
    with pytest.raises(ConfigError, match=r"expected lines of modalities, found in .* text alone"):
        fit(models["fourm"], [path], out=tmp_path / "run", stage="pretrain-7", settings=["budget.batch=1"])
