"""Sampling: equal to the reference's filters, rows that do not disturb each other, and stop strings in streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError, WeightsError
from polymodal.generation import sampling
from polymodal.generation.logit_rules import LogitRules
from polymodal.generation.output import TokenLogprob
from polymodal.generation.sampler import Readout, Sampler
from polymodal.generation.sampling import OptionTable, SamplingOptions
from polymodal.generation.stopping import StopStrings

seeds = st.integers(0, 10**6)


def random_logits(seed: int, rows: int = 3, width: int = 50) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 4


def same(ours: torch.Tensor, reference: torch.Tensor) -> None:
    """The same tokens are left, with logits equal to 1e-6."""
    assert torch.equal(ours.isneginf(), reference.isneginf())
    kept = ~ours.isneginf()
    assert kept.any(-1).all()
    torch.testing.assert_close(ours[kept], reference[kept], atol=1e-6, rtol=0)


@given(
    seeds,
    st.integers(1, 60),
    st.floats(0.01, 0.99),
    st.floats(0.0, 1.0),
    st.floats(0.2, 3.0),
    st.floats(0.5, 2.0),
)
@settings(max_examples=60, deadline=None)
def test_filters_equal_the_reference(seed, k, p, minimum, heat, penalty) -> None:
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = random_logits(seed)
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)
    same(sampling.temperature(logits, heat), process.TemperatureLogitsWarper(heat)(None, logits))
    same(sampling.top_k(logits, k), process.TopKLogitsWarper(k)(None, logits))
    same(sampling.top_p(logits, p), process.TopPLogitsWarper(p)(None, logits))
    same(sampling.min_p(logits, minimum), process.MinPLogitsWarper(minimum)(None, logits))
    same(
        sampling.repetition_penalty(logits, seen, penalty),
        process.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits),
    )


@given(seeds, st.integers(1, 20), st.floats(0.3, 0.99), st.floats(0.01, 0.3), st.floats(0.2, 3.0))
@settings(max_examples=60, deadline=None)
def test_the_whole_chain_equals_the_order_of_the_reference(seed, k, p, minimum, heat) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GenerationConfig(
        do_sample=True, temperature=heat, top_k=k, top_p=p, min_p=minimum, repetition_penalty=1.3
    )
    from transformers.generation.utils import GenerationMixin

    class Bare(GenerationMixin):
        def __init__(self) -> None:
            self.config = transformers.LlamaConfig()
            self.generation_config = config

    config._eos_token_tensor = None
    chain = Bare()._get_logits_processor(config, input_ids_seq_length=7, device="cpu")
    assert len(chain) >= (4 if heat == 1.0 else 5)  # transformers leaves a temperature of 1 out
    logits = random_logits(seed)
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)
    options = SamplingOptions(temperature=heat, top_k=k, top_p=p, min_p=minimum, repetition_penalty=1.3)
    same(sampling.adjust(logits, options, seen), chain(ids, logits.clone()))


def test_filters_leave_their_input_alone() -> None:
    logits = random_logits(0)
    before = logits.clone()
    everything = SamplingOptions(temperature=0.5, top_k=5, top_p=0.5, min_p=0.1, repetition_penalty=2.0)
    sampling.adjust(logits, everything, torch.ones_like(logits, dtype=torch.bool))
    assert torch.equal(logits, before)


def test_draws_follow_the_distribution_and_never_leave_it() -> None:
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 1.0, 2.0, float("-inf")])
    uniform = torch.rand(6000, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drawn = sampling.sample(logits.expand(6000, -1), uniform)
    found = torch.bincount(drawn, minlength=6) / 6000
    # Three standard errors of a frequency at 6000 draws are below 0.02.
    torch.testing.assert_close(found, logits.softmax(-1), atol=0.02, rtol=0)
    assert found[[0, 2, 5]].sum() == 0
    assert sampling.sample(logits.expand(2, -1), torch.tensor([0.0, 1 - 2.0**-53])).tolist() == [1, 4]
    certain = torch.full((1, 9), float("-inf"))
    certain[0, 4] = -3.0
    assert sampling.sample(certain, torch.rand(1, dtype=torch.float64)).tolist() == [4]


def one_by_one(logits: torch.Tensor, options: SamplingOptions, generator: torch.Generator) -> int:
    """A draw in plain words, for one row: a number from the generator, where the distribution's steps reach it."""
    edges = sampling.adjust(logits[None], options)[0].double().softmax(-1).cumsum(-1).tolist()
    number = torch.rand((), generator=generator, dtype=torch.float64).item() * edges[-1]
    return next(index for index, edge in enumerate(edges) if edge > number)


def test_draws_in_blocks_are_those_of_a_generator_asked_step_by_step() -> None:
    """Ids as they were before rows were drawn together: beyond one block, rows of different options."""
    options = [
        SamplingOptions(temperature=1.3, seed=5),
        SamplingOptions(),
        SamplingOptions(temperature=0.7, top_k=9, top_p=0.8, seed=5),
    ]
    sampler = Sampler(options, [[]] * 3)
    generators = [torch.Generator().manual_seed(5) for _ in options]
    for step in range(150):
        logits = random_logits(step)
        found = sampler.choose(logits).tolist()
        wanted = [
            int(row.argmax()) if option.greedy else one_by_one(row, option, generator)
            for row, option, generator in zip(logits, options, generators, strict=True)
        ]
        assert found == wanted


options_of_a_row = st.builds(
    SamplingOptions,
    temperature=st.sampled_from([0.0, 0.4, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 40, 70]),
    top_p=st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.4]),
)


@given(seeds, st.lists(options_of_a_row, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_filters_of_many_rows_equal_those_of_each_alone(seed: int, options: list[SamplingOptions]) -> None:
    logits = random_logits(seed, len(options))
    seen = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    together = OptionTable(options, "cpu").adjust(logits, seen)
    for row, option in enumerate(options):
        one = slice(row, row + 1)
        assert torch.equal(together[one], sampling.adjust(logits[one], option, seen[one]))


@given(seeds, st.integers(0, 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_a_row_does_not_notice_its_neighbours(seed: int, place: int, rows: int) -> None:
    """Ids of one row alone equal its ids in any batch, whatever options the others have."""
    place = min(place, rows - 1)
    mine = SamplingOptions(temperature=1.0, top_p=0.9, repetition_penalty=1.2, seed=seed)
    others = [SamplingOptions(temperature=0.3 * i, top_k=i, seed=seed + i) for i in range(rows)]
    batch = [*others[:place], mine, *others[place + 1 :]]
    steps = [random_logits(seed + i, rows) for i in range(6)]
    together = Sampler(batch, [[1, 2]] * rows)
    alone = Sampler([mine], [[1, 2]])
    assert [int(together.choose(logits)[place]) for logits in steps] == [
        int(alone.choose(logits[place : place + 1])[0]) for logits in steps
    ]


def test_seed_repeats_and_none_does_not() -> None:
    steps = [torch.zeros(1, 1000) for _ in range(8)]

    def ids(seed: int | None) -> list[int]:
        sampler = Sampler([SamplingOptions(temperature=1.0, seed=seed)], [[]])
        return [int(sampler.choose(logits)[0]) for logits in steps]

    assert ids(3) == ids(3) != ids(4)
    assert ids(None) != ids(None)


def test_banned_and_allowed_ids() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]])
    sampler = Sampler([SamplingOptions()], [[]], banned=[0, -5])
    assert sampler.choose(logits).tolist() == [1]
    assert sampler.choose(logits, [torch.tensor([2, 3])]).tolist() == [2]
    assert sampler.choose(logits, [None]).tolist() == [1]


@given(seeds, st.lists(st.lists(st.sampled_from([None, 0, 1, 2, 40]), min_size=3, max_size=3), max_size=60))
@settings(max_examples=40, deadline=None)
def test_rules_of_rows_hold_for_their_own_row_alone(seed: int, steps: list[list[int | None]]) -> None:
    """Tensors that come again, new ones with equal ids, and none, in any mixture."""
    known = {number: torch.arange(number, 50, 7) for number in (0, 1, 2, 40)}
    sampler = Sampler([SamplingOptions()] * 3, [[]] * 3)
    for step, numbers in enumerate(steps):
        logits = random_logits(seed + step)
        allowed = [
            None if number is None else known[number] if (step + row) % 3 else known[number].clone()
            for row, number in enumerate(numbers)
        ]
        found = sampler.choose(logits, allowed).tolist()
        for row, ids in enumerate(allowed):
            places = range(50) if ids is None else ids.tolist()
            assert found[row] == max(places, key=lambda index: float(logits[row, index]))


def test_no_end_token_before_the_shortest_length() -> None:
    logits = torch.tensor([[9.0, 8.0, 1.0]] * 2)
    options = [SamplingOptions(min_tokens=2), SamplingOptions(min_tokens=1)]
    sampler = Sampler(options, [[], []], ends=frozenset({0, 1, 77}))
    assert [sampler.choose(logits).tolist() for _ in range(3)] == [[2, 2], [2, 0], [0, 0]]


def test_logprobs_come_with_the_ids_for_the_rows_that_ask() -> None:
    logits = random_logits(3, rows=4)
    ids = torch.tensor([4, 49, 0, 7])
    options = [SamplingOptions(logprobs=count) for count in (None, 0, 3, 1)]
    readout = Readout(options)
    for _ in range(2):
        found = readout.read(ids, logits)
    assert [index for index, _ in found] == ids.tolist() and found[0][1] is None
    expected = logits.log_softmax(-1)
    for row, count in ((1, 0), (2, 3), (3, 1)):
        likeliest = expected[row].topk(count)
        top = tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))
        index = int(ids[row])
        assert found[row][1] == TokenLogprob(id=index, logprob=float(expected[row, index]), top=top)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_tokens": 0}, "max_tokens: expected 1 or more, found 0"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"stop": ("a", "")}, "stop"),
        ({"beams": 0}, "beams"),
        ({"logprobs": -1}, "logprobs"),
        ({"length_penalty": float("inf")}, "length_penalty"),
        ({"beams": 2, "logprobs": 1}, "beams above 1"),
    ],
)
def test_options_out_of_range_are_named(values, words) -> None:
    with pytest.raises(ConfigError, match=words):
        SamplingOptions(**values)
    assert SamplingOptions(stop="a").stop == ("a",)


letters = st.text("ab", max_size=25)


@given(letters, st.lists(st.text("ab", min_size=1, max_size=5), max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_stop_strings_do_not_depend_on_how_text_is_cut(text: str, stops: list[str], data) -> None:
    """Oracle: grow the text letter by letter until it ends with a stop string; the longest such one is cut off."""
    expected, found = text, None
    for end in range(1, len(text) + 1):
        constraints = [stop for stop in stops if text[:end].endswith(stop)]
        if constraints:
            found = max(constraints, key=len)
            expected = text[: end - len(found)]
            break
    scanner = StopStrings(stops)
    shown, rest = "", text
    while rest and scanner.found is None:
        size = data.draw(st.integers(1, len(rest)))
        shown += scanner.push(rest[:size])
        rest = rest[size:]
        assert expected.startswith(shown)
    if scanner.found is None:
        shown += scanner.finish()
    assert (shown, scanner.found) == (expected, found)


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    scanner = StopStrings(["\nUser:"])
    assert [scanner.push(piece) for piece in ("Hi", "\n", "Us", "a", "\nUser", ":x")] == ["Hi", "", "", "\nUsa", "", ""]
    assert scanner.found == "\nUser:"


def test_scores_that_are_nan_are_reported() -> None:
    options = [SamplingOptions(temperature=1.0, seed=0), SamplingOptions()]
    logits = torch.stack([torch.full((5,), float("nan")), torch.zeros(5)])
    ids = Sampler(options, [[], []]).choose(logits)
    assert ids[1] == 0
    with pytest.raises(WeightsError, match="are NaN"):
        Readout(options).read(ids, logits)


def test_penalties_count_what_was_written() -> None:
    """Over the tokens of the answer: logit - count * frequency - (count > 0) * presence."""
    penalties = [
        {"frequency_penalty": 0.7},
        {"presence_penalty": 1.9},
        {"frequency_penalty": -1.3, "presence_penalty": 0.4},
        {},
    ]
    options = [SamplingOptions(max_tokens=9, rules=LogitRules(**each)) for each in penalties]
    sampler = Sampler(options, [[0, 1, 2]] * 4)  # a prompt's tokens do not count
    written: list[list[int]] = [[] for _ in options]
    for step in range(9):
        logits = random_logits(step % 3, 4) * 0.3
        expected = logits.clone()
        for row, option in enumerate(options):
            for index in set(written[row]):
                rules = option.rules
                expected[row, index] -= written[row].count(index) * rules.frequency_penalty + rules.presence_penalty
        ids = sampler.choose(logits, None, written).tolist()
        assert ids == expected.argmax(-1).tolist()
        for row, index in enumerate(ids):
            written[row].append(index)
    assert len(set(written[2])) <= len(set(written[3])) < len(set(written[1]))


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_penalties_have_bounds(name: str) -> None:
    for value in (-2.1, 2.1, float("nan"), "1", True):
        with pytest.raises(ConfigError, match=f"{name}: expected a number from -2 to 2"):
            LogitRules(**{name: value})
