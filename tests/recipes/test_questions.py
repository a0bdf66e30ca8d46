"""Questions: wrong names are wrong, positions and answers are balanced, wordings kept for tests stay apart."""

import random
from collections import Counter

import pytest
import questions
import wordings
from hypothesis import given
from hypothesis import strategies as st

THINGS = {
    "animal": ["dog", "cat", "frog", "horse", "owl", "penguin", "crab"],
    "food": ["apple", "pear", "pizza", "bread"],
    "vehicle": ["car", "truck", "sports car", "airplane"],
    "clothing": ["hat", "scarf", "scissors"],
}
ABOVE = {"owl": ["bird"], "penguin": ["bird"], "sports car": ["car"]}


def lines(split="train", repeats=3):
    made = []
    for kind, nouns in THINGS.items():
        for noun in nouns:
            plain = noun == "scissors" or noun == "bread"
            name = noun if plain else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
            for place in range(repeats):
                made.append(
                    {
                        "id": f"{noun}/{place}", "row": len(made), "corpus": ("fluent", "tuxpaint")[place % 2],
                        "split": split, "style": "photo", "nouns": [noun], "broader": [], "related": [], "name": name,
                        "caption": name, "above": ABOVE.get(noun, []), "kind": kind, "seen": place == 0,
                        "colour": "red" if noun in ("apple", "car") else None,
                    }
                )  # fmt: skip
    return made


LINES = lines()
NAMES = questions.NameIndex(LINES)


@given(st.sampled_from(LINES), st.sampled_from(questions.KINDS), st.integers(0, 10**6), st.booleans())
def test_every_question_is_answerable(line, kind, seed, held_out):
    question = questions.ask(line, kind, NAMES, random.Random(seed), held_out)
    if question is None:
        assert kind == "colour" and line["colour"] is None
        return
    assert question.answer.endswith(".") and question.answer[0].isupper()
    assert "{" not in question.question and question.question[-1] in "?."
    assert questions.is_correct(question, question.answer)
    assert question == questions.ask(line, kind, NAMES, random.Random(seed), held_out)  # seeded
    if question.options and kind != "yes_no":
        assert len(set(question.options)) == len(question.options)
        assert all(option in question.question for option in question.options)
        for option in question.options:
            assert questions.is_correct(question, option) == (questions.sentence(option) == question.answer)


@given(st.sampled_from(LINES), st.integers(0, 10**6), st.booleans())
def test_wrong_names_are_wrong(line, seed, hard):
    other = NAMES.distractor(line, random.Random(seed), hard)
    assert other is not None and other not in (*line["nouns"], *line["above"])
    if line["nouns"] == ["car"]:
        assert other != "sports car"  # a sports car may be what the picture of a car shows
    if hard:
        assert other in THINGS[line["kind"]]


def test_related_words_are_never_wrong():
    line = {**LINES[0], "related": ["cat", "pizza slice"]}
    assert not NAMES.wrong(line, "cat") and not NAMES.wrong(line, "pizza") and NAMES.wrong(line, "hat")


def test_yes_and_no_are_balanced():
    rng = random.Random(0)
    asked = [questions.ask(rng.choice(LINES), "yes_no", NAMES, rng) for _ in range(2000)]
    answers = Counter(question.answer for question in asked)
    assert abs(answers["Yes."] - 1000) < 120
    hard = sum(question.hard for question in asked if question.answer == "No.")
    assert 0.3 < hard / answers["No."] < 0.6


def test_right_option_stands_anywhere():
    rng = random.Random(1)
    asked = [questions.ask(rng.choice(LINES), "which", NAMES, rng) for _ in range(3000)]
    pairs = Counter(
        question.options.index(question.answer[:1].lower() + question.answer[1:-1])
        for question in asked
        if len(question.options) == 2
    )
    assert abs(pairs[0] - pairs[1]) < 0.15 * sum(pairs.values())
    assert set(Counter(len(question.options) for question in asked)) == {2, 3, 4}


def test_wordings_for_tests_are_never_in_training():
    for kind, (training, kept) in wordings.WAYS.items():
        assert kind in questions.KINDS and training and kept
        assert not set(training) & set(kept)
        assert len(set(training)) == len(training)


def test_exam_is_balanced():
    names = questions.NameIndex(lines(repeats=4))
    exam = questions.test_set(lines("test", 4), names, seed=3, size=60)
    assert set(exam) == set(questions.KINDS)
    yes_no = exam["yes_no"]
    assert Counter(question.answer for question in yes_no) == {"Yes.": len(yes_no) // 2, "No.": len(yes_no) // 2}
    assert questions.chance(yes_no) == pytest.approx(0.5)
    assert {question.held_out_wording for question in exam["what"]} == {True, False}
    assert questions.chance(exam["category"]) >= 1 / 3
    assert exam == questions.test_set(lines("test", 4), names, seed=3, size=60)
    # a name is asked about with "no" as often as with "yes", so a reader of the question alone learns nothing
    said = Counter()
    for question in yes_no:
        for noun in ("dog", "cat", "pizza", "truck"):
            if f" {noun} " in f" {question.question.rstrip('?.')} ":
                said[noun] += 1 if question.answer == "Yes." else -1
    assert all(abs(count) <= 1 for count in said.values())


def test_training_question_always_finds_a_question():
    rng = random.Random(2)
    assert {questions.training_question(line, NAMES, rng).kind for line in LINES * 4} == set(questions.KINDS)
    assert questions.training_question(LINES[0], NAMES, rng, kinds=("colour",)).kind == "what"


@pytest.mark.parametrize(
    ("way", "name", "text"),
    [
        ("Is this {}?", "a cat", "Is this a cat?"), ("Is this {}?", "scissors", "Are these scissors?"),
        ("Is there {} in the picture?", "grapes", "Are there grapes in the picture?"),
        ("Is it {}?", "bread", "Is it bread?"),
        ("Would you say this is {}?", "socks", "Would you say these are socks?"),
        ("Is {} shown here?", "a pair of shoes", "Is a pair of shoes shown here?"),
        ("Is it {}?", "grass", "Is it grass?"),
    ],
)  # fmt: skip
def test_fill(way, name, text):
    assert questions.fill(way, name) == text


def test_right_reads_free_replies():
    base = {"picture": "x", "row": 0, "question": "?", "answer": "A cat."}
    what = questions.Question(kind="what", accepted=("cat",), **base)
    assert questions.is_correct(what, "This is a cat sitting.") and not questions.is_correct(what, "A caterpillar.")
    which = questions.Question(kind="which", accepted=("cat",), options=("a cat", "a dog"), **base)
    assert questions.is_correct(which, "A cat") and not questions.is_correct(which, "A cat or a dog")
    no = questions.Question(kind="yes_no", accepted=("no",), options=("yes", "no"), **base)
    assert questions.is_correct(no, "No, it is not.")
    assert not questions.is_correct(no, "Yes. No.") and not questions.is_correct(no, "")
