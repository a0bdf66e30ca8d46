"""What the collators of single methods make of their files: sentences in front, targets, emotions."""

from pathlib import Path

import numpy as np
import pytest
import torch

import method_folders
import polymodal as pm
from polymodal.api.training import TrainOptions, collator_of, learner_of, stage_of
from polymodal.data.datasets.opening import open_dataset
from polymodal.data.datasets.records import sample_of
from polymodal.errors import PromptError
from polymodal.train.collator import WrongKind


def made(system: str, kind: str, folder: Path):
    """The model of a tiny folder, its collator, and the samples of a data file."""
    (folder / "model").mkdir()
    method_folders.WRITTEN[system](folder / "model")
    model = pm.load(folder / "model", dtype="float32")
    data = open_dataset(method_folders.DATA[kind](folder))
    stage = stage_of(model, "train")
    collator = collator_of(model, stage, learner_of(model, stage, TrainOptions()))
    return model, collator, [data.sample(index) for index in range(len(data))]


def test_of_a_joke_the_first_words_and_the_last_sentences_are_read_behind_zeros(tmp_path: Path) -> None:
    _, collator, samples = made("c-mfn", "punchlines", tmp_path)
    said = torch.from_numpy(np.load(tmp_path / "11.audio.npy"))
    item = collator.item(samples[11])
    assert len(said) == 14 and torch.equal(item["audio"], said[:8])  # the model reads 8 words of 3 sentences
    context = torch.tensor(samples[11].features["context_audio"].values)
    assert len(context) == 4 and torch.allclose(item["context_audio"][:, 4:], context[1:].float())
    assert (item["context_audio"][:, :4] == 0).all() and (collator.item(samples[0])["context_text"] == 0).all()
    short = collator.item(samples[1])
    assert (short["audio"][:4] == 0).all() and (short["context_audio"][0] == 0).all()
    del samples[11].features["context_text"]
    with pytest.raises(PromptError, match="unequal numbers of sentences"):
        collator.item(samples[11])


def test_tweets_of_unequal_length_are_answered_as_alone(tmp_path: Path) -> None:
    model, collator, samples = made("tombert", "tweets with targets", tmp_path)
    items = [collator.item(each) for each in samples]
    assert [label for _, _, label in items] == [number % 3 for number in range(12)]
    none = torch.Generator()
    whole = collator.batch(items, none).batch
    assert whole["target_mask"].sum(1).tolist() == [3 + number % 3 for number in range(12)]
    labels = whole.pop("labels")
    found = model.logits(**whole)
    for row in range(3):
        alone = collator.batch(items[row : row + 1], none).batch
        alone.pop("labels")
        assert torch.allclose(model.logits(**alone)[0], found[row], atol=1e-5), row
    assert labels.tolist() == [number % 3 for number in range(12)]
    with pytest.raises(WrongKind, match="has no target"):
        collator.item(sample_of({"image": "0.png", "text": "a", "label": "1"}, "x", lambda name: tmp_path / name))


def test_emotions_are_named_numbered_or_counted(tmp_path: Path) -> None:
    _, collator, samples = made("mesm", "clips of speech", tmp_path)
    items = [collator.item(each) for each in samples]
    labels = [row.tolist() for *_, row in items]
    assert labels[:3] == [[1, 0, 0], [0, 0, 1], [0, 1, 0]] and labels[5] == [0, 1, 1]
    batch = collator.batch(items, torch.Generator()).batch
    assert batch["face_counts"].tolist() == [1, 2] * 6 and len(batch["faces"]) == 18
    assert len(batch["spectrograms"]) == int(batch["spectrogram_counts"].sum())
    with pytest.raises(PromptError, match="has 2 labels; the model has 3 emotions"):
        collator.labels([0, 1])
    with pytest.raises(PromptError, match="label 'glad' is none of the model's 3 classes"):
        collator.labels(["glad"])
