"""The duplex pair: who answers, who hears, what is kept.  Engines and sounds run; which state an answer has and that
it goes on is forced, since the weights are random."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_vita import SQUARE, folder_of

import polymodal as pm
from polymodal.check import real
from polymodal.data.media import Audio, Image
from polymodal.engine.engine import Engine
from polymodal.engine.request import Request
from polymodal.errors import ConfigError
from polymodal.generation.logit_rules import LogitRules
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.utterances import RATE
from polymodal.systems.vita.duplex import Duplex, DuplexOptions, Moment
from polymodal.systems.vita.processing import NOISE, QUERY


class Scripted(Engine):
    """An engine whose answers are a state and the letter a, again and again."""

    def __init__(self, model: Any, states: Iterator[str]) -> None:
        super().__init__(model.module, model.processor)
        self.states, self.asked = states, []

    def add(self, request: Request) -> int:
        tokenizer = self.processor.tokenizer
        letter, state = tokenizer.encode("a")[0], tokenizer.special(next(self.states))
        rules = LogitRules(forced_bos_token_id=state, sequence_bias=(((letter,), 1000.0),))
        self.asked.append(request.encoded)
        return super().add(Request(encoded=request.encoded, options=replace(request.options, rules=rules)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return pm.load(folder_of(Path(tmp_path_factory.mktemp("vita"))))


def pair(model: Any, *states: str, tokens: int = 60, **options: Any) -> Duplex:
    script = iter(states)
    sampling = SamplingOptions(max_tokens=tokens)
    return Duplex(Scripted(model, script), Scripted(model, script),
                  options=DuplexOptions(steps=2, system=".", sampling=sampling, **options))  # fmt: skip


def spoken(seconds: float = 2.0) -> np.ndarray:
    """Real speech, and a second of quiet behind it."""
    return np.concatenate((real.speech(RATE).numpy()[: int(seconds * RATE)], np.zeros(RATE, np.float32)))


def kinds(moments: list[Moment]) -> list[tuple[str, int]]:
    return [(moment.kind, moment.instance) for moment in moments if moment.kind != "said"]


def test_noise_is_ignored_and_a_question_interrupts(model: Any) -> None:
    duplex = pair(model, QUERY, NOISE, QUERY)
    moments = [*duplex.hear(np.concatenate([spoken()] * 3)), *duplex.finish()]
    assert kinds(moments) == [("began", 1), ("ignored", 0), ("interrupted", 1), ("began", 0), ("finished", 0)]
    cut = next(moment for moment in moments if moment.kind == "interrupted")
    assert 20 < len(cut.text) < 59 and set(cut.text) == {"a"} and moments[-1].text == "a" * 59
    assert "".join(moment.text for moment in moments if moment.kind == "said") == cut.text + moments[-1].text
    context = [len(engine.asked[-1].media_spans) for engine in (duplex._instances[0].engine,)]
    assert context == [2]  # the question that interrupts is asked with the one it interrupts, and with its answer
    assert not any(each.engine.busy for each in duplex._instances)


def test_noise_alone_changes_nobody_s_part(model: Any) -> None:
    duplex = pair(model, NOISE, NOISE, QUERY, tokens=4)
    moments = [*duplex.hear(np.concatenate([spoken()] * 3)), *duplex.finish()]
    assert kinds(moments) == [("ignored", 1), ("ignored", 1), ("began", 1), ("finished", 1)]
    assert moments[0].at < moments[1].at < moments[2].at and len(duplex.history) == 1


@pytest.mark.parametrize("history", [0, 1, 2])
def test_earlier_questions_are_kept_without_what_was_shown(model: Any, history: int) -> None:
    duplex = pair(model, QUERY, QUERY, QUERY, tokens=3, history=history)
    duplex.scene = (SQUARE,)
    for _ in range(3):
        assert kinds([*duplex.hear(spoken()), *duplex.finish()])[-1][0] == "finished"
    asked = duplex._instances[1].engine.asked[-1].media_spans
    assert [span.item.modality for span in asked].count("audio") == 1 + history
    assert [span.item.modality for span in asked].count("image") == 1
    assert not any(isinstance(part, Image) for question, _ in duplex.history for part in question.parts)
    assert all(isinstance(part, Audio) for question, _ in duplex.history for part in question.parts)


def test_a_question_that_cannot_be_asked_fails_alone(model: Any, tmp_path: Path) -> None:
    small = pm.load(folder_of(tmp_path, tokenizer_model_max_length=70))
    duplex = pair(small, QUERY, QUERY, tokens=3)
    moments = [*duplex.hear(np.concatenate((spoken(4.0), spoken(1.6)))), *duplex.finish()]
    assert kinds(moments) == [("failed", 1), ("began", 1), ("finished", 1)]
    assert "for a limit of 70" in moments[0].text


def test_what_is_no_pair_is_refused(model: Any) -> None:
    engine = Engine(model.module, model.processor)
    with pytest.raises(ConfigError, match="expected two engines, found one of them twice"):
        Duplex(engine, engine)
    with pytest.raises(ConfigError, match="expected history of 0 and steps of 1 or more"):
        DuplexOptions(steps=0)
