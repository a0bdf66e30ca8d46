"""Every chat system of the catalogue in the engine: requests that come at different steps answer as alone, twice."""

from pathlib import Path

import pytest
from test_flows import CAT, CHATS

import polymodal as pm
from headline_folders import captured
from polymodal.api.asking import messages_of
from polymodal.engine.engine import Engine
from polymodal.engine.request import EngineLimits, Request
from polymodal.errors import PromptError
from polymodal.generation.generate import generate
from polymodal.generation.prefill import collate_left
from polymodal.generation.sampling import SamplingOptions

OPTIONS = SamplingOptions(max_tokens=6)


def rows(engine: Engine, media: bool):
    """Conversations of three lengths as rows; those that the system refuses (a picture is needed) are left out."""
    for length in range(3):
        words = f"word {'and more ' * length}?"
        try:
            yield engine.encode(messages_of([pm.image(CAT), words] if media else [words]))
        except PromptError:
            assert not media


@pytest.mark.parametrize("stem", CHATS)
def test_answers_in_company_are_those_alone(stem: str, tmp_path: Path) -> None:
    model = pm.load(captured(stem, tmp_path / stem))
    for media in (False, True) if "image" in model.system.inputs else (False,):
        module = model.module_for(media)
        processor = model.processor
        engine = Engine(module, processor, limits=EngineLimits(chunk=16, mixed_chunk=7))
        requests = [Request(encoded=encoded, options=OPTIONS) for encoded in rows(engine, media)]
        expected = [
            generate(module, collate_left(processor, [each.encoded]), OPTIONS, engine.constraints)[0].ids
            for each in requests
        ]
        assert requests or not media
        waiting, number_of, found = list(enumerate(requests)), {}, {index: [] for index in range(len(requests))}
        while waiting or engine.busy:
            if waiting:
                index, request = waiting.pop(0)
                number_of[engine.add(request)] = index
            for event in [*engine.step(), *engine.step()]:
                assert event.error is None
                found[number_of[event.request]].append(event.piece.id)
        assert [tuple(ids) for ids in found.values()] == expected
        # Once more: the prompts are known now.
        assert [answers[0].ids for answers in engine.run(requests)] == expected
