"""What mini is taught to say of several things, and of what it cannot tell."""

import random
import re

import pytest
from lessons import bare, listed, own_questions, plural, together, unknown_question
from photographs import read_kinds
from questions import NameIndex
from wordings import NEAR, SEVERAL, UNKNOWN, WAYS

KINDS = [kind.name for kind in read_kinds()]


def chances(**there: float) -> list[float]:
    return [there.get(name, 0.0) for name in KINDS]


def test_what_is_there_is_listed_the_surest_first() -> None:
    names = listed("a dog", chances(person=0.6, couch=0.9, dog=0.99, cat=0.1))
    assert together(names) == "A dog, a couch and a person."
    assert together(listed("a dog", chances(dog=0.9))) == "A dog."
    assert together(listed("a person", chances(person=0.9, skis=0.8))) == "A person and skis."


def test_nothing_is_listed_twice_under_another_name() -> None:
    assert listed("a parrot", chances(bird=0.9)) == ["a parrot"]
    assert listed("a woman", chances(person=0.9, tie=0.8)) == ["a woman", "a tie"]


def test_an_answer_stays_short() -> None:
    assert len(listed("a dog", [0.9] * len(KINDS))) == 4


@pytest.mark.parametrize("ways", [*WAYS.values(), *UNKNOWN.values(), SEVERAL, NEAR])
def test_no_test_wording_is_trained(ways: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    assert not set(ways[0]) & set(ways[1])


def test_what_cannot_be_told_is_not_asked_in_the_words_of_what_can() -> None:
    told = {way for ways in (*WAYS.values(), SEVERAL, NEAR) for part in ways for way in part}
    assert not told & {way for ways in UNKNOWN.values() for part in ways for way in part}


def test_questions_that_nobody_can_answer_name_the_thing() -> None:
    rng = random.Random(0)
    asked = {unknown_question(None, "bus", 0, rng) for _ in range(400)}
    assert "How many buses are there?" in asked and not any("{" in question for question in asked)
    # the name of a flag says its country, so nobody may be taught that it cannot be told
    flags = {unknown_question({"kind": "flag"}, "flag", 0, rng) for _ in range(400)}
    assert "What country is this?" in asked and "What country is this?" not in flags


def test_own_questions_begin_with_what_it_is() -> None:
    asked = own_questions(None, NameIndex([]), ["dog", "couch"], random.Random(1))
    assert asked[0] in set(WAYS["what"][0]) - set(SEVERAL[0])
    assert not any(re.search("[{}]", question) for question in asked)


@pytest.mark.parametrize(("one", "many"), [("bus", "buses"), ("person", "people"), ("city", "cities"), ("toy", "toys")])
def test_plural(one: str, many: str) -> None:
    assert plural(one) == many


def test_a_name_without_article() -> None:
    assert (bare("A red car."), bare("Scissors."), bare("An apple.")) == ("red car", "scissors", "apple")
