"""The tables behind the names of photographs, and the closed-form parts of their fit."""

from pathlib import Path

import pytest
import torch
from measure_photographs import hit
from photographs import fit_gate, named, read_kinds, read_nouns, read_words, ridge

from polymodal.connectors.everyday import EverydayConfig
from polymodal.systems.mini import components
from polymodal.weights.read import read_safetensors


def test_every_class_has_the_word_that_people_say() -> None:
    words = read_words()
    known = {386: "elephant", 340: "zebra", 207: "dog", 281: "cat", 705: "train", 829: "tram", 752: "tennis racket",
             851: "television", 651: "microwave", 850: "teddy bear", 468: "taxi", 779: "bus", 948: "apple"}  # fmt: skip
    assert {index: words[index] for index in known} == known
    assert len(words) == 1000 and all(words)


@pytest.mark.parametrize(("text", "said"), [("dog: 0-999\ncat: 7\n", "class 7"), ("dog: 0-998\n", "class 999")])
def test_a_torn_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "everyday.txt").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_words(tmp_path)


def test_kinds_have_words_and_classes(tmp_path: Path) -> None:
    kinds = read_kinds()
    by_name = {kind.name: kind for kind in kinds}
    assert len(kinds) == len(by_name) == components.ENCODER.detector.kinds
    assert (kinds[0].name, kinds[15].name, kinds[79].name) == ("person", "cat", "toothbrush")
    assert by_name["tv"].word == "television" and by_name["dining table"].word == "table"
    assert by_name["dog"].classes == set(range(151, 269)) and not by_name["frisbee"].classes
    (tmp_path / "things.txt").write_text("person [1-\n")
    with pytest.raises(ValueError, match="person"):
        read_kinds(tmp_path)


def test_what_ships_is_the_table() -> None:
    import json

    stored = read_safetensors(Path(components.TRAINED.name))
    names = json.loads(stored.metadata["names"])
    assert len(names) == components.CONNECTOR.all_names
    words, things = read_words(), [kind.word for kind in read_kinds()]
    assert [names[i] for i in stored["connector.everyday.word_of"].tolist()] == words
    assert [names[i] for i in stored["connector.everyday.thing_of"].tolist()] == things
    assert named(names[: components.CONNECTOR.names], words, things)[0] == names


def test_an_answer_is_right_by_its_words() -> None:
    nouns = read_nouns()
    assert hit("A tram.", nouns["train"]) and hit("Two elephants.", frozenset({"elephant"}))
    assert not hit("A hot dog.", nouns["dog"]) and hit("A hot dog.", nouns["hot dog"])


def test_the_gate_learns_who_knows_better_from_the_style() -> None:
    torch.manual_seed(0)
    part = EverydayConfig(classes=2).build(names=2, summary=8)
    photograph = torch.arange(40) % 2 == 0
    x = torch.randn(40, 8) + 3 * photograph[:, None]
    weight, bias = ridge(x, photograph)
    style = x @ weight.T + bias
    assert style[photograph].mean() > style[~photograph].mean()
    words, learned = torch.tensor([[0.9, 0.1]]).repeat(40, 1), torch.tensor([[0.1, 0.9]]).log().repeat(40, 1)
    right = torch.stack([photograph, ~photograph], dim=-1)
    near = photograph.float()[:, None]
    fit_gate(part.gate, lambda: part.mix(words, learned, near), right, torch.ones(40))
    share = part.share(words, learned, photograph.float()[:, None])
    assert share[photograph].min() > 0.9 and share[~photograph].max() < 0.1
