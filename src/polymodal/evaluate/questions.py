"""Answers to questions: VQA accuracy as its official script computes it, exact match, the edit distance of ANLS.

VQA accuracy (arXiv 1505.00468; GT-Vision-Lab/VQA, `vqaEval.py`): for each of ten people's answers, how many of the
other nine equal the model's answer: min(number / 3, 1); the mean of the ten.  Whether two answers are equal is decided
after a normalisation, and the script changed in what it normalises:

    VQA_ACCURACY        since 2021 (revision a013f00): both sides wholly, but neither where all people agree, so that
                        "Yes." scores 0 against ten times "yes"; `normalise` what a model writes before it is scored
    VQA_ACCURACY_2015   before (revision 458a8b2): the model's answer always and wholly; people's answers only in
                        punctuation, where they differ, so that "2" never equals their "two"

EXACT_MATCH: equal to any of the answers after that normalisation of both.  GQA's script compares as they are written,
one word in small letters.  ANLS (arXiv 1907.00490): the best of 1 - edit distance / length of the longer text over the
answers, 0 where that quotient is 0.5 or more; small letters, single spaces, as the script of the Robust Reading
Competition does.  All are shares from 0 to 1.

A record has `answers`: a list of texts, or of mappings with "answer" as VQA's annotations are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.metric import Metric, Rows, each
from polymodal.evaluate.metrics import edit_distance
from polymodal.evaluate.values import given, text, texts

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # no apostrophe, no colon, no full stop
_DIGIT_COMMA_DIGIT = re.compile(r"[0-9],[0-9]")
_FULL_STOP = re.compile(r"\.(?![0-9])")
_FULL_STOPS = 32  # the script gives re.UNICODE, which is 32, where the number of replacements stands
_ARTICLES = ("a", "an", "the")
_NUMBERS = {"none": "0"} | {
    word: str(i)
    for i, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
}
_WITHOUT_APOSTROPHE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
    it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
    somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's
    they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's
    where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_ONE_APOSTROPHE_LESS = """
    couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""
# As they stand in the script: "couldnt've" and "couldn'tve" are "couldn't've", and "somebody'd" loses its apostrophe.
_CONTRACTIONS = (
    {word.replace("'", ""): word for word in _WITHOUT_APOSTROPHE.split()}
    | {
        word[:i] + word[i + 1 :]: word
        for word in _ONE_APOSTROPHE_LESS.split()
        for i, letter in enumerate(word)
        if letter == "'"
    }
    | {"somebody'd": "somebodyd"}
)


def strip_punctuation(text: str) -> str:
    """A mark beside a space (or any, in a text with "1,000") goes, another becomes a space; full stops before no digit
    go, 32 at most."""
    joined = _DIGIT_COMMA_DIGIT.search(text) is not None
    result = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if joined or beside_space else " ")
    return _FULL_STOP.sub("", result, count=_FULL_STOPS)


def normalise_words(text: str) -> str:
    """Small letters, numbers up to ten as digits, no articles, apostrophes in contractions, single spaces."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalise(text: str) -> str:
    """An answer as the official script compares it."""
    return normalise_words(strip_punctuation(_one_line(text)))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy of one question by the script since 2021.  Raises ConfigError for fewer than two answers."""
    prediction, answers = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalise(prediction), [normalise(answer) for answer in answers]
    return _agreement(prediction, answers)


def vqa_accuracy_2015(prediction: str, answers: Sequence[str]) -> float:
    """VQA accuracy of one question by the script until 2021.  Raises ConfigError for fewer than two answers."""
    if len(set(answers)) > 1:
        answers = [strip_punctuation(answer) for answer in answers]
    return _agreement(normalise(prediction), answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers after `normalise`, else 0."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})


def anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """The best similarity to one of the answers, 0 where the distance is `threshold` of the longer text or more."""
    found = " ".join(prediction.lower().split())
    best = 0.0
    for answer in answers:
        expected = " ".join(answer.lower().split())
        distance = edit_distance(found, expected) / max(len(found), len(expected), 1)
        best = max(best, 1 - distance if distance < threshold else 0.0)
    return best


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _agreement(prediction: str, answers: Sequence[str]) -> float:
    _several(answers)
    equal = [answer == prediction for answer in answers]
    return float(np.mean([min((sum(equal) - own) / 3, 1) for own in equal]))


def _several(answers: Sequence[str]) -> None:
    if len(answers) < 2:
        raise ConfigError(
            f"answers: VQA accuracy compares with the answers of other people, expected ten, at least 2, "
            f"found {len(answers)}; exact match takes one"
        )


def _answers(record: Mapping[str, Any]) -> list[str]:
    return texts(given(record, "answers"), "answers", "answer")


def _people(record: Mapping[str, Any]) -> None:
    _several(_answers(record))


def _rows(score: Callable[[str, Sequence[str]], float]) -> Rows:
    return each(lambda sample: score(text(sample.prediction, "prediction"), _answers(sample.record)))


VQA_ACCURACY = Metric(name="vqa_accuracy", rows=_rows(vqa_accuracy), asks=_people)
VQA_ACCURACY_2015 = Metric(name="vqa_accuracy_2015", rows=_rows(vqa_accuracy_2015), asks=_people)
EXACT_MATCH = Metric(name="exact_match", rows=_rows(exact_match), asks=_answers)
ANLS = Metric(name="anls", rows=_rows(anls), asks=_answers)
