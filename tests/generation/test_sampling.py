"""Sampling: equal to the reference's filters, rows that do not disturb each other, and stop strings in streams."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError, WeightsError
from polymodal.generation import sampling
from polymodal.generation.sampling import Sampler, SamplingOptions
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
    generator = torch.Generator().manual_seed(7)
    drawn = torch.tensor([sampling.draw(logits, generator) for _ in range(6000)])
    found = torch.bincount(drawn, minlength=6) / 6000
    # Three standard errors of a frequency at 6000 draws are below 0.02.
    torch.testing.assert_close(found, logits.softmax(-1), atol=0.02, rtol=0)
    assert found[[0, 2, 5]].sum() == 0
    certain = torch.full((9,), float("-inf"))
    certain[4] = -3.0
    assert sampling.draw(certain, generator) == 4


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
    assert [together.choose(logits)[place] for logits in steps] == [
        alone.choose(logits[place : place + 1])[0] for logits in steps
    ]


def test_seed_repeats_and_none_does_not() -> None:
    steps = [torch.zeros(1, 1000) for _ in range(8)]

    def ids(seed: int | None) -> list[int]:
        sampler = Sampler([SamplingOptions(temperature=1.0, seed=seed)], [[]])
        return [sampler.choose(logits)[0] for logits in steps]

    assert ids(3) == ids(3) != ids(4)
    assert ids(None) != ids(None)


def test_banned_and_allowed_ids() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0]])
    sampler = Sampler([SamplingOptions()], [[]], banned=[0])
    assert sampler.choose(logits) == [1]
    assert sampler.choose(logits, [torch.tensor([2, 3])]) == [2]
    assert sampler.choose(logits, [None]) == [1]


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
        ({"beams": 2, "temperature": 1.0}, "beams above 1"),
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


def test_scores_that_are_no_numbers_are_told() -> None:
    with pytest.raises(WeightsError, match="no numbers"):
        sampling.draw(torch.full((5,), float("nan")), torch.Generator().manual_seed(0))
