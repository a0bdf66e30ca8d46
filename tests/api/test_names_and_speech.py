"""Stages `align` and `hear` of the default model from data files, on toys with its connectors."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from safetensors.torch import load_file

import polymodal as pm
from polymodal.api import training
from polymodal.errors import ConfigError, PromptError
from polymodal.train import checkpoint
from polymodal.train.loop import begin
from polymodal.train.names import MultipleInstance
from polymodal.train.speech import CTC, letters_of, masked, needed, of_like_length
from tiny_mini import NAMES

SYSTEM = Path(__file__).parents[1] / "tiny_mini.py"
SET = ["budget.batch=6", "budget.steps=8", "optimizer.lr=0.02", 'schedule={"type": "Constant"}']
RATE = 16_000


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def named(folder: Path) -> Path:
    """Twelve pictures of one colour each, with two names, one of which is not learned."""
    rows = []
    for number in range(12):
        name = NAMES[4 + number % 2]
        Pillow.new("RGB", (16, 16), name).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "labels": [name, "a name that nobody learns"]})
    return lines(folder / "names.jsonl", rows)


def said(folder: Path) -> Path:
    """Six recordings: in each of four two tones with what they say, two are said as a whole."""
    rows: list[dict[str, Any]] = []
    for number in range(6):
        sound = np.random.default_rng(number).integers(-9000, 9000, 2 * RATE).astype(np.int16)
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, len(sound), "NONE", ""))
            file.writeframes(sound.tobytes())
        parts = [{"start": 0.1, "end": 0.9, "text": "one"}, {"start": 1.0, "end": 1.9, "text": "too"}]
        rows.append({"audio": f"{number}.wav"} | ({"labels": parts} if number < 4 else {"transcript": "one two"}))
    return lines(folder / "said.jsonl", rows)


DATA = {"align": named, "hear": said}


def fit(data: Path, out: Path, stage: str, **given: Any) -> tuple[pm.Model, list[float]]:
    model = pm.load(SYSTEM, dtype="float32")
    return model, training.fit(model, [data], out=out, stage=stage, settings=SET, **given)


@pytest.mark.parametrize("stage", DATA)
def test_a_stage_learns_from_its_file_and_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, stage: str) -> None:
    data = DATA[stage](tmp_path)
    before = pm.load(SYSTEM, dtype="float32").module.state_dict()
    model, losses = fit(data, tmp_path / "a", stage)
    assert len(losses) == 8 and losses[-1] < losses[0]
    calls = iter(range(1, 99))
    _, first = fit(data, tmp_path / "b", stage, stop=lambda: next(calls) >= 3)
    resumed, second = training.resume(tmp_path / "b")
    assert first + second == losses
    after = model.module.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in resumed.module.state_dict().items())
    moved = {
        name.rpartition(".")[0] if "recall" in name else name for name, x in after.items() if not x.equal(before[name])
    }
    if stage == "align":
        assert moved == {f"connectors.image.{name}" for name in ("recall", "class_keys", "mix")}
    else:
        assert moved and all(name.startswith("connectors.audio.") for name in moved)
    again = pm.load(
        pm.export(tmp_path / "a", tmp_path / "out"), system=str(SYSTEM), dtype="float32"
    ).module.state_dict()
    assert all(torch.equal(x, again[name]) for name, x in after.items())


def test_the_keys_of_names_go_into_the_connector_and_name_the_pictures(tmp_path: Path) -> None:
    model, _ = fit(named(tmp_path), tmp_path / "run", "align")
    connector = model.module.connectors["image"]
    kept = load_file(checkpoint.complete(tmp_path / "run")[-1] / "objective.safetensors")["keys"]
    assert torch.equal(connector.class_keys, F.normalize(kept, dim=-1)) and connector.mix[1].item() == pytest.approx(
        3.6
    )
    look = model.processor.modalities["image"].transform
    batch = {"pixel_values": torch.stack([look(pm.image(str(tmp_path / f"{number}.png"))) for number in (0, 1)])}
    summary = connector.summary(model.module.encoded("image", batch))
    best = (F.normalize(connector.recall(summary), dim=-1) @ connector.class_keys.T).argmax(-1)
    assert [NAMES[index] for index in best.tolist()] == ["red", "green"]


def test_a_run_of_a_system_file_goes_on_with_its_variant(tmp_path: Path) -> None:
    model = pm.load(f"{SYSTEM}:other", dtype="float32")
    settings = [*SET[:1], "budget.steps=1", *SET[2:]]
    training.fit(model, [named(tmp_path)], out=tmp_path / "run", stage="align", settings=settings)
    assert model.variant.name == training.resume(tmp_path / "run")[0].variant.name == "other"


def collator(stage: str) -> Any:
    model = pm.load(SYSTEM, dtype="float32")
    chosen = training.stage_of(model, stage)
    return training.collator_of(model, chosen, training.learner_of(model, chosen, training.TrainOptions()))


def items(made: Any, path: Path) -> list[Any]:
    data = training.mixture_of([path], training.TrainOptions()).datasets[0]
    return [made.item(data.sample(index)) for index in range(len(data))]


def test_several_texts_of_a_recording_have_their_frames(tmp_path: Path) -> None:
    made = collator("hear")
    batch = made.batch(items(made, said(tmp_path))[3:5], torch.Generator()).batch
    assert batch["spans"] == [(0, 5, 45), (0, 50, 95), (1, 0, 100)]
    assert batch["targets"]["letters"][1] == [21, 16, 16] and len(batch["targets"]["tokens"][2]) == len("one two")
    assert batch["audio_values"].shape[0] == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"labels": [{"start": 0, "end": 0.1, "text": "much too long"}]}, "'much too long': is said in 5 frames"),
        ({"labels": [{"start": 0, "end": 1, "text": ""}]}, "has tokens that the connector does not know, or none"),
    ],
)
def test_what_cannot_be_learned_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    said(tmp_path)
    with pytest.raises(PromptError, match=message):
        items(collator("hear"), lines(tmp_path / "a.jsonl", [{"audio": "0.wav"} | row]))


@pytest.mark.parametrize(
    ("stage", "row", "message"),
    [
        ("align", {"image": "0.png", "labels": ["unheard of"]}, "none of its names is one of the 6 that are learned"),
        ("align", {"image": "0.png", "question": "What?", "answer": "it"}, "expected pictures with names each"),
        ("hear", {"image": "0.png", "caption": "it"}, "expected recordings with what is said in them, found .*image"),
        ("hear", {"audio": "0.wav"}, "has no text of what is said"),
    ],
)  # fmt: skip
def test_data_of_a_wrong_kind_is_told_before_the_run(
    tmp_path: Path, stage: str, row: dict[str, Any], message: str
) -> None:
    named(tmp_path), said(tmp_path)
    with pytest.raises(ConfigError, match=message):
        fit(lines(tmp_path / "a.jsonl", [row] * 3), tmp_path / "run", stage)


def test_a_model_without_such_connectors_is_refused() -> None:
    model = pm.load(SYSTEM, dtype="float32").module
    model.connectors["image"], model.connectors["audio"] = torch.nn.Identity(), torch.nn.Identity()
    with pytest.raises(ConfigError, match="a connector of names, which this model lacks"):
        MultipleInstance().build(model)
    with pytest.raises(ConfigError, match="a CTC connector, which this model lacks"):
        CTC(weights={"tokens": 1.0}).build(model)


def test_the_head_of_letters_learns_and_is_none_of_the_model() -> None:
    loaded = pm.load(SYSTEM, dtype="float32")
    run = begin(loaded.module, training.stage_of(loaded, "hear"), 0)
    assert run.objective.letters is not None and "letters.weight" in run.objective.state_dict()
    with pytest.raises(ConfigError, match="none of 'words'"):
        CTC(weights={"words": 1.0}).build(loaded.module)


def test_texts_pass_in_groups_of_like_length_with_the_loss_of_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, made = pm.load(SYSTEM, dtype="float32"), collator("hear")
    batch = made.batch(items(made, said(tmp_path)), torch.Generator()).batch
    objective = CTC(weights={"tokens": 0.7, "letters": 0.3}).build(loaded.module).eval()
    once = objective(loaded.module, batch)
    monkeypatch.setattr("polymodal.train.speech.TOGETHER", 3)
    grouped = objective(loaded.module, batch)
    assert (
        of_like_length([torch.ones(n, 1) for n in (5, 2, 9, 1)]) == [[3, 1, 0], [2]] and grouped.keys() == once.keys()
    )
    assert all(torch.allclose(grouped[head], once[head], rtol=1e-6) for head in once)


def test_masking_sets_neighbours_to_the_mean_and_nothing_else() -> None:
    torch.manual_seed(3)
    row = torch.randn(40, 24)
    found = masked(row, 10, 8)
    changed = found != row
    assert changed.any() and not changed.all() and torch.equal(masked(row, 0, 0), row)
    where = changed.nonzero()
    assert torch.equal(found[changed], row.mean(0)[where[:, 1]])


def test_letters_and_the_frames_they_need() -> None:
    assert letters_of("Two  COFFEES, o'clock 7!") == "two coffees o'clock"
    assert needed([1, 1, 2]) == 5 and needed([]) == 1
