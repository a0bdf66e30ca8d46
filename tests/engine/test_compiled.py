"""Steps as graphs with static shapes: the same answers, few graphs, and the plain step where there is none."""

import random
from dataclasses import replace

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

from polymodal.backbones.llama import CONFIGS
from polymodal.data.messages import conversation
from polymodal.engine.compiled import CompiledStep, why_not
from polymodal.engine.engine import Engine
from polymodal.engine.request import EngineLimits, Request
from polymodal.generation.logit_rules import LogitRules
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from tiny_talk import model, picture, processor

NETWORK, PROCESSOR = model(), processor()


def engine_with(backend: str, **limits: int) -> tuple[Engine, list[torch.fx.GraphModule]]:
    """An engine whose steps are compiled, and the graphs that were made."""
    engine, graphs = Engine(NETWORK, PROCESSOR, limits=EngineLimits(**limits)), []

    def counted(graph, inputs):
        graphs.append(graph)
        return lookup_backend(backend)(graph, inputs)

    engine._compiled = CompiledStep(NETWORK, counted)
    engine.drop_requests()
    return engine, graphs


def requests(engine: Engine, seed: int) -> list[Request]:
    rng, found = random.Random(seed), []
    for number in range(9):
        parts = [picture(rng.randint(0, 3))] if rng.random() < 0.4 else []
        parts.append({"type": "text", "text": "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(1, 50)))})
        options = rng.choice([
            SamplingOptions(max_tokens=12),
            SamplingOptions(max_tokens=7, temperature=1.1, seed=number),
            SamplingOptions(max_tokens=15, logprobs=1, rules=LogitRules(frequency_penalty=1.5)),
        ])  # fmt: skip
        encoded = engine.encode(conversation([{"role": "user", "content": parts}]))
        found.append(Request(encoded=encoded, options=options, n=rng.choice([1, 1, 2])))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_answers_are_those_of_the_plain_steps(seed: int) -> None:
    plain, (engine, graphs) = Engine(NETWORK, PROCESSOR), engine_with("eager", rows=5)
    expected = plain.run(requests(plain, seed))
    found = engine.run(requests(engine, seed))
    assert [[each.ids for each in answers] for answers in found] == [[e.ids for e in answers] for answers in expected]
    assert engine._compiled is not None and not engine._compiled.why_not
    assert 0 < len(graphs) <= 4, "a graph for each number of rows that the buffers doubled to"


def test_a_compiler_gives_the_same_numbers() -> None:
    plain, (engine, _) = Engine(NETWORK, PROCESSOR), engine_with("aot_eager", rows=1)
    talk = conversation([{"role": "user", "content": "hello there"}])
    options = SamplingOptions(max_tokens=6, logprobs=0)
    expected, found = (
        each.run([Request(encoded=each.encode(talk), options=options)])[0][0] for each in (plain, engine)
    )
    assert found.ids == expected.ids
    for one, other in zip(found.logprobs or (), expected.logprobs or (), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_a_failing_compiler_is_told_once_and_the_plain_step_serves(caplog) -> None:
    engine, _ = engine_with("eager", rows=2)

    def broken(*_):
        raise RuntimeError("no compiler\nfor this machine")

    engine._compiled._compiled = lambda _: broken
    plain = Engine(NETWORK, PROCESSOR)
    expected, found = ([[each.ids for each in some] for some in e.run(requests(e, 0))] for e in (plain, engine))
    assert found == expected
    assert [each.getMessage() for each in caplog.records] == ["decoding is not compiled: no compiler for this machine"]


def test_what_a_static_graph_cannot_say_is_left_out() -> None:
    base = CONFIGS["smollm2-135m"]
    with torch.device("meta"):
        assert why_not(MultimodalLM({}, {}, base.build(), {}), "eager") == ""
        block = base.blocks[0]
        narrow = replace(base, blocks=(replace(block, attention=replace(block.attention, window=8)),))
        assert "window" in why_not(MultimodalLM({}, {}, narrow.build(), {}), "eager")
