"""C-MFN: UR-FUNNY's files as the authors read them, positions of sentences, and bad input refused by name."""

import pickle

import numpy as np
import pytest
import torch

from polymodal.check.evidence.c_mfn import SMALL, samples
from polymodal.errors import ConfigError, PromptError
from polymodal.models.contextual_memory_fusion import positions, sinusoids
from polymodal.systems import get
from polymodal.systems.c_mfn.inputs import UrFunny
from polymodal.train.affect import EmotionLabels

SPEC = get("c-mfn").formats[0].model_spec
RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """Three samples in the layout of UR-FUNNY V2: a context of two sentences, of none, and of seven."""
    contexts = {1: [3, 25], 2: [], 3: [2, 3, 4, 5, 6, 7, 8]}
    punchlines = {1: 4, 2: 22, 3: 1}
    files = {
        "language_sdk": {
            name: {
                "punchline_embedding_indexes": list(range(1, 1 + punchlines[name])),
                "context_embedding_indexes": [list(range(2, 2 + size)) for size in sizes],
            }
            for name, sizes in contexts.items()
        },
        "humor_label_sdk": {1: 1, 2: 0, 3: 1},
        "word_embedding_list": np.concatenate((np.full((1, 27), 9.0), RNG.normal(size=(40, 27)))).tolist(),
        "data_folds": {"train": [1, 2], "dev": [3], "test": []},
    }
    for file, width in (("covarep_features_sdk", 4), ("openface_features_sdk", 12)):
        files[file] = {
            name: {
                "punchline_features": RNG.normal(size=(punchlines[name], width)).tolist(),
                "context_features": [RNG.normal(size=(size, width)).tolist() for size in sizes],
            }
            for name, sizes in contexts.items()
        }
    for name, value in files.items():
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(value, 4))
    return tmp_path, files


def test_files_are_padded_as_the_authors_pad_them(folder):
    path, files = folder
    opened = UrFunny(path)
    assert list(opened.folds["train"]) == [1, 2]
    made = opened.batch([1, 2, 3])
    assert made["labels"].tolist() == [[1.0], [0.0], [1.0]]
    table = torch.tensor(files["word_embedding_list"])
    assert made["text"].shape == (3, 20, 27) and made["context_vision"].shape == (3, 5, 20, 12)
    assert torch.equal(made["text"][0], table[[0] * 16 + [1, 2, 3, 4]])
    assert torch.equal(made["text"][1], table[1:21])  # the first 20 of 22 words
    heard = torch.tensor(files["covarep_features_sdk"][1]["context_features"][1])
    assert torch.equal(made["context_audio"][0, 4], heard[:20]) and not made["context_audio"][0, :3].any()
    assert not made["context_text"][1].any()
    assert torch.equal(made["context_text"][2, 0, -4:], table[2:6])  # the last 5 of 7 sentences
    context = {name: made[f"context_{name}"] for name in ("text", "audio", "vision")}
    assert positions(context).tolist() == [[0, 0, 0, 1, 2], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]]
    with pytest.raises(ConfigError, match="the files have no sample 7"):
        opened.batch([7])


def test_samples_of_files_are_learned(folder):
    made = UrFunny(folder[0]).batch([1, 2, 3])
    model = SPEC({**SMALL, "sentences": 5, "steps": 20}).build()
    loss = EmotionLabels().build(model)(model, made)["emotions"]
    loss.backward()
    assert model.starts["audio"].weight.grad.abs().max() > 0 and model.context_memory.positions.grad is None
    assert torch.isclose(loss, model.eval()(**made).losses["humour"], atol=1e-5)


def test_positions_are_the_well_known_ones_but_the_first():
    table = sinusoids(4, 6)
    assert not table[0].any()
    assert torch.allclose(table[3, 2:4], torch.tensor([3 / 10000 ** (1 / 3)]).repeat(2).sin().mul(torch.tensor([1, 0]))
                          + torch.tensor([0, 1]) * torch.tensor(3 / 10000 ** (1 / 3)).cos())  # fmt: skip


def test_refusals():
    data = samples(0, 4)
    model = SPEC(SMALL).build()
    for change, words in (
        ({"vision": None}, "expected text, audio, vision of the punchline, found no vision"),
        ({"audio": torch.zeros(4, 8, 5)}, r"audio must be \[B, T, 4\], found \[4, 8, 5\]"),
        ({"text": torch.zeros(4, 9, 27)}, "text has 9 words, 8 are read"),
        ({"context_audio": torch.zeros(4, 4, 8, 4)}, "context_audio has 4 sentences, 3 are read"),
        ({"context_text": torch.zeros(4, 3, 9, 27)}, "context_text has 9 words, 8 are read"),
        ({"context_audio": torch.zeros(3, 3, 8, 4)}, "one number of samples, 4, found text 4, audio 3"),
    ):
        with pytest.raises(PromptError, match=words):
            model(**{**data, **change})
    with pytest.raises(ConfigError, match=r"does not know the inputs \['face'\]"):
        model(**data, face=torch.zeros(1))
    ids = SPEC({**SMALL, "words": 5}).build()
    with pytest.raises(PromptError, match="text: ids must be 0 to 4, found 9"):
        ids(**{**data, "text": torch.full((4, 2), 9), "context_text": None})
    with pytest.raises(PromptError, match=r"text must be ids \[B, T\], found \[4, 8, 27\]"):
        ids(**data)
    for change, words in (
        ({"drops": {"gate": 0.5}}, "drops names 'gate'"),
        ({"states": {"text": 3}}, "states must have the keys text, audio, vision"),
        ({"hidden": {"classifier": 3}}, "hidden must have the keys attention, proposal"),
        ({"window": 2}, "c-mfn: "),
    ):
        with pytest.raises(ConfigError, match=words):
            SPEC({**SMALL, **change})
