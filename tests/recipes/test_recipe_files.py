"""The data files that the recipe of the default model writes for its stages."""

import json
import random
from pathlib import Path

import conversations
import pytest
import several
from photographs import SCENE, Photograph
from PIL import Image as Pillow
from questions import NameIndex
from there import Shown

ROWS = [(corpus, split) for corpus in (*conversations.SHARES, "noto") for split in ("train", "val", "test")] * 3


def line(row: int, corpus: str, split: str) -> dict:
    noun = f"thing{row}"
    seen = None if split != "test" else row % 2 == 0
    return {
        "id": f"{corpus}/{row}", "row": row, "corpus": corpus, "split": split, "nouns": [noun], "name": f"a {noun}",
        "caption": f"a {noun}", "style": "cartoon", "kind": "animal", "above": ["creature"], "broader": [],
        "related": [], "colour": "red", "seen": seen,
    }  # fmt: skip


class Stored:
    """As `measure.Pictures`, with pictures of one colour."""

    def __init__(self) -> None:
        self.lines = [line(row, *each) for row, each in enumerate(ROWS)]
        self.lines[1]["nouns"] = ["unseen in the tests"]
        for each in self.lines:
            if each["seen"] is False:
                each["nouns"] = [*each["nouns"], "unseen in the tests"]

    def choose(self, size: int, **fields: object) -> list[dict]:
        return [each for each in self.lines if all(each[key] == value for key, value in fields.items())][:size]

    def image(self, line: dict) -> Pillow.Image:
        return Pillow.new("RGB", (8, 8), (line["row"], 0, 0))


def test_no_test_picture_and_no_concept_that_tests_call_unseen_is_asked_about() -> None:
    stored = Stored()
    assert stored.lines[1]["split"] == "val" and stored.lines[1]["corpus"] in conversations.SHARES
    found = conversations.pools(stored)
    for split, pools in found.items():
        assert pools and all(each["split"] == split for pool in pools for each in pool)
    corpora = {each["corpus"] for pools in found.values() for pool in pools for each in pool}
    assert corpora == set(conversations.SHARES)  # the unseen styles are not among them
    asked = [each for pool in found["val"] for each in pool]
    assert "tuxpaint" not in {each["corpus"] for each in asked} and 1 not in {each["row"] for each in asked}


def test_a_row_is_a_picture_with_one_to_four_questions_that_are_answered(tmp_path: Path) -> None:
    stored, rng = Stored(), random.Random(0)
    names, pools = NameIndex(stored.lines), conversations.pools(stored)["train"]
    rows = [conversations.about(pools, names, rng) for _ in range(60)]
    sizes = set()
    for row in rows:
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and all(turn["content"] for turn in row["messages"])
        sizes.add(len(roles) // 2)
    assert sizes == {1, 2, 3, 4}
    rows.append(conversations.text_only([{"ask": "Hello!", "reply": "Hi."}], [{"said": "One.", "ask": "What?"}], rng))
    conversations.write(rows, tmp_path / "a.jsonl", stored)
    back = [json.loads(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert back == rows and "image" not in back[-1]
    for row in back[:-1]:
        with Pillow.open(tmp_path / row["image"]) as picture:
            assert picture.getpixel((0, 0)) == (int(Path(row["image"]).stem), 0, 0)


def test_two_scenes_beside_each_other_hold_what_either_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "PAIRS", 2)
    shown = []
    for number, (colour, noun) in enumerate((("red", "dog"), ("blue", "car"))):
        Pillow.new("RGB", (60, 30), colour).save(tmp_path / f"{number}.jpg")
        source = Photograph(path=tmp_path / f"{number}.jpg", key=str(number), nouns=frozenset({noun}), kind=SCENE)
        shown.append(Shown(kind=SCENE, nouns=source.nouns, source=source))
    every = list(several.written(shown, Stored(), tmp_path / "out"))
    pair, path = every[-1]
    assert len(every) == 4 and pair.kind == several.PAIR and pair.nouns == {"dog", "car"}
    with Pillow.open(path) as picture:
        assert picture.size == (4 * several.SIDE, several.SIDE)
        ends = [picture.getpixel((x, 9)) for x in (5, 4 * several.SIDE - 5)]
    assert sorted(colour.index(max(colour)) for colour in ends) == [0, 2]


def test_a_lesson_asks_one_thing_and_answers_in_the_models_own_words_or_that_it_cannot_tell() -> None:
    rng, own = random.Random(0), [("What is this?", "A dog."), ("Is it a cat?", "No.")]
    each, chances = Shown(kind=SCENE, nouns=frozenset({"dog"})), [0.9, *[0.0] * 79]
    said = {several.lesson(each, own, chances, rng)["messages"][1]["content"] for _ in range(80)}
    assert said == {"A dog.", "No.", "A dog and a person.", "I cannot tell that from the picture."}
