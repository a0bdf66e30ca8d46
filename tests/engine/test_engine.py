"""Answers of an engine equal those of the plain loop: alone or in company, joined early or late."""

import itertools
import random
import time

import pytest
import torch

from polymodal.data.messages import conversation
from polymodal.engine.engine import Engine
from polymodal.engine.request import EngineLimits, Event, QueueFull, Request
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.generation.generate import generate
from polymodal.generation.logit_rules import LogitRules
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.prefill import collate_left, prefill_after
from polymodal.generation.sampler import Sampler
from polymodal.generation.sampling import SamplingOptions
from tiny_talk import model, picture, processor

NETWORK, PROCESSOR = model(), processor()
OPTIONS = (
    SamplingOptions(max_tokens=12),
    SamplingOptions(max_tokens=9, temperature=1.2, top_p=0.9, seed=3),
    SamplingOptions(max_tokens=15, repetition_penalty=1.3, logprobs=2),
    SamplingOptions(max_tokens=6, min_tokens=3),
    SamplingOptions(max_tokens=14, rules=LogitRules(frequency_penalty=1.5, presence_penalty=-0.5)),
    SamplingOptions(max_tokens=11, temperature=1.0, rules=LogitRules(presence_penalty=2.0), seed=8),
    SamplingOptions(max_tokens=1),
)


def talk(seed: int):
    """A conversation of one to three turns, with pictures here and there."""
    rng = random.Random(seed)
    messages = []
    for turn in range(rng.randint(1, 3)):
        words = "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(1, 60)))
        content = [picture(rng.randint(0, 3)), words] if rng.random() < 0.4 else [words]
        messages.append({"role": "user", "content": [_part(each) for each in content]})
        if turn < 2:
            messages.append({"role": "assistant", "content": "yes"})
    return conversation(messages if messages[-1]["role"] == "user" else messages[:-1])


def _part(each):
    return {"type": "text", "text": each} if isinstance(each, str) else each


def alone(encoded, options, n: int = 1):
    """The plain loop: one prompt, one batch."""
    batch = collate_left(PROCESSOR, [encoded])
    constraints = DecodingConstraints(tokenizer=PROCESSOR.tokenizer)
    return generate(NETWORK, batch, [options], constraints, sequences=n)


def drive(engine: Engine, arrivals) -> dict[int, list[Event]]:
    """Steps until all has ended; arrivals: (step, request).  Events by number of the request."""
    waiting = sorted(enumerate(arrivals), key=lambda pair: pair[1][0])
    number_of, events = {}, {}
    for step in itertools.count():
        while waiting and waiting[0][1][0] <= step:
            index, (_, request) = waiting.pop(0)
            number_of[engine.add(request)] = index
        for event in engine.step():
            events.setdefault(number_of[event.request], []).append(event)
        if not waiting and not engine.busy:
            return events


@pytest.mark.parametrize("seed", range(6))
def test_requests_that_come_at_any_time_answer_as_alone(seed: int) -> None:
    rng = random.Random(seed)
    limits = EngineLimits(rows=rng.choice([1, 3, 16]), chunk=rng.choice([5, 512]), mixed_chunk=rng.choice([3, 64]))
    engine = Engine(NETWORK, PROCESSOR, limits=limits)
    arrivals = [
        (rng.randint(0, 20), Request(encoded=engine.encode(talk(rng.randint(0, 9))), options=rng.choice(OPTIONS)))
        for _ in range(12)
    ]
    events = drive(engine, arrivals)
    for index, (_, request) in enumerate(arrivals):
        (expected,) = alone(request.encoded, request.options)
        pieces = [event.piece for event in events[index]]
        assert tuple(piece.id for piece in pieces) == expected.ids
        assert "".join(piece.text for piece in pieces) == expected.text
        assert [event.done for event in events[index]] == [False] * (len(pieces) - 1) + [True]
        assert events[index][-1].finish_reason == expected.finish_reason
        if expected.logprobs:
            found = [piece.logprob.logprob for piece in pieces]
            assert found == pytest.approx([each.logprob for each in expected.logprobs], abs=1e-4)
    assert engine.running == engine.waiting == 0


def test_several_answers_to_one_prompt() -> None:
    engine = Engine(NETWORK, PROCESSOR)
    options = SamplingOptions(max_tokens=8, temperature=1.0, seed=11)
    encoded = engine.encode(talk(3))
    others = [Request(encoded=engine.encode(talk(seed))) for seed in range(3)]
    found = engine.run([Request(encoded=encoded, options=options, n=4), *others])
    assert [each.ids for each in found[0]] == [each.ids for each in alone(encoded, options, 4)]
    assert len({each.ids for each in found[0]}) > 1


def test_a_second_turn_computes_what_is_new_and_encodes_nothing(monkeypatch) -> None:
    engine = Engine(NETWORK, PROCESSOR)
    first = conversation([{"role": "user", "content": [picture(1), {"type": "text", "text": "what is this? " * 4}]}])
    (answer,) = engine.run([Request(encoded=engine.encode(first), options=OPTIONS[0])])[0]
    turns = [*first, *conversation([{"role": "assistant", "content": answer.text}, {"role": "user", "content": "b"}])]
    second = engine.encode(turns)
    fed = []
    embed = NETWORK.backbone.embed
    monkeypatch.setattr(NETWORK.backbone, "embed", lambda ids: fed.append(ids.shape[1]) or embed(ids))
    monkeypatch.setattr(NETWORK, "encode", lambda *_: pytest.fail("the picture is encoded again"))
    (again,) = engine.run([Request(encoded=second, options=OPTIONS[0])])[0]
    monkeypatch.undo()
    assert fed[0] <= len(second) - len(engine.encode(first)) + 1
    assert again.ids == alone(second, OPTIONS[0])[0].ids


def test_requests_that_begin_alike_share_while_the_first_still_writes(monkeypatch) -> None:
    engine = Engine(NETWORK, PROCESSOR)
    shared = "you are asked about letters. " * 5
    asked = [conversation([{"role": "user", "content": shared + end}]) for end in "abc"]
    fed = []
    embed = NETWORK.backbone.embed
    monkeypatch.setattr(NETWORK.backbone, "embed", lambda ids: fed.append(ids.shape[1]) or embed(ids))
    found = engine.run([Request(encoded=engine.encode(each), options=OPTIONS[0]) for each in asked])
    monkeypatch.undo()
    prompts = [length for length in fed if length > 1]
    assert prompts[0] > 100 and all(length < 20 for length in prompts[1:])
    for messages, (answer,) in zip(asked, found, strict=True):
        assert answer.ids == alone(engine.encode(messages), OPTIONS[0])[0].ids


def test_abort_frees_the_row_at_the_next_step_and_leaves_the_others_alone() -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(rows=2))
    long = SamplingOptions(max_tokens=60)
    requests = [Request(encoded=engine.encode(talk(seed)), options=long) for seed in range(3)]
    numbers = [engine.add(request) for request in requests]
    events = [event for _ in range(4) for event in engine.step()]
    assert engine.running == 2 and engine.waiting == 1
    assert engine.abort(numbers[0]) and engine.abort(numbers[0])
    events += engine.step()
    assert [event.finish_reason for event in events if event.request == numbers[0]][-1] == "abort"
    assert engine.running == 2 and engine.waiting == 0  # the one that waited has begun
    assert not engine.abort(numbers[0]) and not engine.abort(99)
    while engine.busy:
        events += engine.step()
    for number, request in list(zip(numbers, requests, strict=True))[1:]:
        ids = tuple(event.piece.id for event in events if event.request == number)
        assert ids == alone(request.encoded, long)[0].ids


def test_a_request_that_waits_or_is_read_can_be_aborted() -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(rows=1, chunk=2, mixed_chunk=1))
    first, second = (engine.add(Request(encoded=engine.encode(talk(seed)))) for seed in (1, 2))
    engine.step()
    assert engine.running == 0  # still reading the first prompt
    assert engine.abort(second) and engine.abort(first)
    assert [(event.request, event.finish_reason, event.done) for event in engine.step()] == [
        (first, "abort", True),
        (second, "abort", True),
    ]
    assert not engine.busy and engine.step() == []


def test_a_deadline_ends_an_answer_with_what_was_written() -> None:
    engine = Engine(NETWORK, PROCESSOR)
    number = engine.add(Request(encoded=engine.encode(talk(1)), options=SamplingOptions(max_tokens=400), seconds=0.2))
    events = engine.step()
    time.sleep(0.25)
    events += engine.step()
    assert events[0].piece is not None and events[-1].finish_reason == "timeout" and events[-1].done
    assert {event.request for event in events} == {number} and not engine.busy


@pytest.mark.parametrize("heat", [0.0, 1.0])
@pytest.mark.parametrize("late", [False, True])
def test_one_poisoned_row_of_eight_leaves_the_others_ids_unchanged(heat: float, late: bool, monkeypatch) -> None:
    """Its picture, or later one of its tokens, is no number: it fails by name, the rest answers as alone."""
    engine = Engine(NETWORK, PROCESSOR)
    poisoned = conversation([{"role": "user", "content": [picture(77), {"type": "text", "text": "what?"}]}])
    requests = [Request(encoded=engine.encode(talk(seed)), options=OPTIONS[0]) for seed in range(7)]
    options = SamplingOptions(max_tokens=30, temperature=heat, seed=0)
    bad = Request(encoded=engine.encode(poisoned), options=options)
    encode, embed = NETWORK.encode, NETWORK.backbone.embed

    def embedding(ids):
        found = embed(ids)
        if late and ids.shape[1] == 1 and len(ids) == 8:
            found[[row.request for row in engine._shared.rows].index(number)] = float("nan")
        return found

    monkeypatch.setattr(NETWORK.backbone, "embed", embedding)
    if not late:
        monkeypatch.setattr(NETWORK, "encode", lambda *given: torch.full_like(encode(*given), float("nan")))
    number = engine.add(bad)
    events = engine.step()
    if not late:
        monkeypatch.undo()
    numbers = [engine.add(request) for request in requests]
    while engine.busy:
        events += engine.step()
    failed = [event for event in events if event.request == number]
    assert late == (len(failed) > 1)
    assert failed[-1].finish_reason == "error" and isinstance(failed[-1].error, WeightsError) and failed[-1].done
    monkeypatch.undo()
    for key, request in zip(numbers, requests, strict=True):
        ids = tuple(event.piece.id for event in events if event.request == key)
        assert ids == alone(request.encoded, OPTIONS[0])[0].ids


def test_limits_are_named() -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(queue=1))
    encoded = engine.encode(talk(0))
    engine.add(Request(encoded=encoded))
    with pytest.raises(QueueFull, match="the queue is full"):
        engine.add(Request(encoded=encoded))
    with pytest.raises(ConfigError, match="beam search takes no rule"):
        Request(encoded=encoded, options=SamplingOptions(beams=2), allowed=(lambda ids: None,))
    with pytest.raises(ConfigError, match="2 beams find at most that many answers, 3 are asked for"):
        Request(encoded=encoded, options=SamplingOptions(beams=2), n=3)
    with pytest.raises(ConfigError, match=r"EngineLimits\.rows"):
        EngineLimits(rows=0)
    with pytest.raises(PromptError, match="context"):
        engine.add(Request(encoded=engine.encode(conversation([{"role": "user", "content": "a" * 3000}]))))


def test_new_weights_forget_what_was_computed() -> None:
    network = model(5)
    engine = Engine(network, PROCESSOR)
    encoded = engine.encode(talk(1))
    engine.run([Request(encoded=encoded)])
    assert engine.prefixes.nbytes and len(engine.prefixes)
    with torch.no_grad():
        network.backbone.embed_tokens.weight.mul_(-1)
    (answer,) = engine.run([Request(encoded=encoded, options=OPTIONS[0])])[0]
    assert answer.ids == Engine(network, PROCESSOR).run([Request(encoded=encoded, options=OPTIONS[0])])[0][0].ids
    engine.clear_caches()
    assert not len(engine.prefixes)


def test_memory_is_bounded_by_the_limits() -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(rows=64, cache_bytes=400_000, prefix_bytes=100_000))
    most = 0
    for seed in range(20):
        engine.add(Request(encoded=engine.encode(talk(seed)), options=SamplingOptions(max_tokens=40)))
    while engine.busy:
        engine.step()
        most = max(most, engine.running)
        assert engine.prefixes.nbytes <= 100_000
    assert 1 < most < 20


def test_rows_that_sample_choose_all_at_once_and_each_as_alone(monkeypatch) -> None:
    kinds = [{"temperature": 0.7}, {"temperature": 1.3, "top_k": 20}, {"temperature": 1.0, "top_p": 0.8, "logprobs": 1}]
    options = [SamplingOptions(max_tokens=70 + k, seed=k, **kinds[k % 3]) for k in range(6)]
    engine = Engine(NETWORK, PROCESSOR)
    requests = [Request(encoded=engine.encode(talk(k)), options=each) for k, each in enumerate(options)]
    widths = []
    choose = Sampler.choose
    monkeypatch.setattr(
        Sampler, "choose", lambda self, logits, *rest: widths.append(len(logits)) or choose(self, logits, *rest)
    )
    found = engine.run(requests)
    assert max(widths) == 6
    assert len(widths) <= 6 + 75 + 6  # first tokens, and one call a step
    for request, (answer,) in zip(requests, found, strict=True):
        (expected,) = alone(request.encoded, request.options)
        assert answer.ids == expected.ids


def test_a_prompt_that_makes_the_model_fail_leaves_the_others_alone(monkeypatch) -> None:
    """A defect that one request's media meet ends that request, with the error as it was."""
    engine = Engine(NETWORK, PROCESSOR)
    talks = [engine.encode(talk(seed)) for seed in range(8)]
    poisoned = engine.encode(conversation([{"role": "user", "content": [picture(7), "x"]}]))

    def broken(model, processor, encoded, *given):
        if any(each is poisoned for each in encoded):
            raise RuntimeError("no kernel for this shape")
        return prefill_after(model, processor, encoded, *given)

    monkeypatch.setattr("polymodal.engine.reading.prefill_after", broken)
    requests = [Request(encoded=each, options=SamplingOptions(max_tokens=6)) for each in [*talks, poisoned]]
    events = drive(engine, [(index % 3, each) for index, each in enumerate(requests)])
    (last,) = events[8]
    assert isinstance(last.error, RuntimeError) and last.done and last.finish_reason == "error"
    for index, encoded in enumerate(talks):
        ids = tuple(event.piece.id for event in events[index] if event.piece is not None)
        assert ids == alone(encoded, SamplingOptions(max_tokens=6))[0].ids
    assert not engine.busy and not engine.running


BEAMS = (
    SamplingOptions(max_tokens=9, beams=3),
    SamplingOptions(max_tokens=7, beams=4, length_penalty=0.5, early_stopping=True, repetition_penalty=1.2),
    SamplingOptions(max_tokens=6, beams=2, temperature=1.0, seed=4),
)


@pytest.mark.parametrize("options", BEAMS)
def test_beam_search_in_company_equals_the_plain_one(options: SamplingOptions) -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(chunk=40, mixed_chunk=10))
    requests = [Request(encoded=engine.encode(talk(seed)), options=options, n=1 + seed % 2) for seed in range(4)]
    others = [Request(encoded=engine.encode(talk(seed)), options=OPTIONS[seed]) for seed in range(4)]
    mixed = [each for pair in zip(requests, others, strict=True) for each in pair]
    events = drive(engine, [(index % 4, each) for index, each in enumerate(mixed)])
    for index, request in enumerate(mixed):
        expected = alone(request.encoded, request.options, request.n)
        for number, answer in enumerate(expected):
            pieces = [event.piece for event in events[index] if event.answer == number]
            assert tuple(piece.id for piece in pieces) == answer.ids
            assert "".join(piece.text for piece in pieces) == answer.text
            assert pieces[-1].finish_reason == answer.finish_reason
        assert [event.done for event in events[index]].index(True) == len(events[index]) - 1
    assert not engine.busy and not engine.running


def test_beams_end_when_they_are_aborted_or_overdue() -> None:
    engine = Engine(NETWORK, PROCESSOR)
    options = SamplingOptions(max_tokens=300, beams=3)
    first = engine.add(Request(encoded=engine.encode(talk(1)), options=options))
    engine.step()
    assert engine.running == 3 and engine.step() == []
    engine.abort(first)
    (event,) = engine.step()
    assert (event.request, event.finish_reason, event.done) == (first, "abort", True) and not engine.running
    late = engine.add(Request(encoded=engine.encode(talk(1)), options=options, seconds=0.01))
    engine.step()
    time.sleep(0.02)
    assert [(event.request, event.finish_reason) for event in engine.step()] == [(late, "timeout")]


def test_beams_of_a_poisoned_prompt_fail_by_name(monkeypatch) -> None:
    engine = Engine(NETWORK, PROCESSOR)
    encode = NETWORK.encode
    monkeypatch.setattr(NETWORK, "encode", lambda *given: torch.full_like(encode(*given), float("nan")))
    poisoned = engine.encode(conversation([{"role": "user", "content": [picture(78), "what?"]}]))
    with pytest.raises(WeightsError):
        engine.run([Request(encoded=poisoned, options=BEAMS[0])])
    assert not engine.busy and not engine.running


def counted_forwards(monkeypatch) -> list[tuple[int, int]]:
    """Rows and tokens of each forward through a prompt."""
    sizes: list[tuple[int, int]] = []
    forward = NETWORK.backbone.forward

    def watched(embeds, *given, **named):
        if embeds.shape[1] > 1:
            sizes.append(tuple(embeds.shape[:2]))
        return forward(embeds, *given, **named)

    monkeypatch.setattr(NETWORK.backbone, "forward", watched)
    return sizes


def test_short_prompts_are_read_together(monkeypatch) -> None:
    """Behind instructions that all share, and with pictures: one forward for those that wait together."""
    engine = Engine(NETWORK, PROCESSOR)
    words = ["one", "and another", "the third of these", "x"]
    asked = [conversation([{"role": "user", "content": "you are asked about letters. " * 4 + each}]) for each in words]
    seen = [conversation([{"role": "user", "content": [picture(20 + k), each]}]) for k, each in enumerate(words)]
    # The first to tell the instructions goes ahead; then they are known, the default system message too.
    for talks, rows in ((asked, [1, 3]), (seen, [4])):
        requests = [Request(encoded=engine.encode(each), options=OPTIONS[k]) for k, each in enumerate(talks)]
        sizes, before = counted_forwards(monkeypatch), NETWORK.encoders["image"].items
        found = engine.run(requests)
        monkeypatch.undo()
        assert [count for count, _ in sizes] == rows and sizes[-1][1] < 40
        assert NETWORK.encoders["image"].items - before in (0, 4)
        for request, (answer,) in zip(requests, found, strict=True):
            assert answer.ids == alone(request.encoded, request.options)[0].ids


def test_prompts_that_are_too_long_or_too_unlike_are_read_one_by_one(monkeypatch) -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(chunk=100, mixed_chunk=100))
    lengths = (3, 90, 4, 400)
    talks = [conversation([{"role": "user", "content": letter * n}]) for letter, n in zip("abcd", lengths, strict=True)]
    requests = [Request(encoded=engine.encode(each), options=OPTIONS[0]) for each in talks]
    sizes = counted_forwards(monkeypatch)
    found = engine.run(requests)
    monkeypatch.undo()
    assert all(rows * tokens <= 100 for rows, tokens in sizes), sizes
    for request, (answer,) in zip(requests, found, strict=True):
        assert answer.ids == alone(request.encoded, request.options)[0].ids


def test_one_of_those_read_together_may_be_aborted() -> None:
    engine = Engine(NETWORK, PROCESSOR, limits=EngineLimits(chunk=120, mixed_chunk=120))
    talks = [conversation([{"role": "user", "content": letter * 40}]) for letter in "abc"]
    engine.run([Request(encoded=engine.encode(talk(0)), options=OPTIONS[-1])])
    requests = [Request(encoded=engine.encode(each), options=OPTIONS[0]) for each in talks]
    numbers = [engine.add(request) for request in requests]
    events = engine.step()
    engine.abort(numbers[1])
    while engine.busy:
        events += engine.step()
    ends = {event.request: event.finish_reason for event in events if event.finish_reason}
    assert ends[numbers[1]] == "abort"
    for number, request in zip(numbers, requests, strict=True):
        ids = tuple(event.piece.id for event in events if event.request == number and event.piece)
        expected = alone(request.encoded, OPTIONS[0])[0].ids
        assert ids == expected if number != numbers[1] else ids == expected[: len(ids)]


def test_tenants_share_nothing(monkeypatch) -> None:
    """Where the time until the first token could tell that somebody else has shown this picture, it does not."""
    engine = Engine(NETWORK, PROCESSOR)
    encoded = engine.encode(conversation([{"role": "user", "content": [picture(50), "what?"]}]))
    before = NETWORK.encoders["image"].items
    cached = []
    for tenant in ("a", "b", "a", "", "b"):
        engine.add(Request(encoded=encoded, options=OPTIONS[0], tenant=tenant))
        events = []
        while engine.busy:
            events += engine.step()
        assert tuple(event.piece.id for event in events) == alone(encoded, OPTIONS[0])[0].ids
        cached.append(events[0].cached_tokens)
    whole = len(encoded) - 1
    assert cached == [0, 0, whole, 0, whole]
    assert NETWORK.encoders["image"].items - before == 3 + 5  # once for each tenant, and five plain runs
