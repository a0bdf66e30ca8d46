"""Generation: equal to the reference, independent of batch, chunk and neighbours; text, stops and log-probabilities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError, PromptError
from polymodal.generation.decode_state import prefill_batch
from polymodal.generation.generate import answer, generate
from polymodal.generation.output import DecodingConstraints, Generation
from polymodal.generation.sampling import SamplingOptions
from tiny_models import VOCABULARY, reference_pair, text_model
from tiny_text import letters_tokenizer


def prompts(seed: int, *lengths: int) -> dict[str, torch.Tensor]:
    """A batch of random prompts of these lengths, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(0, VOCABULARY, (len(lengths), width), generator=generator)
    mask = torch.arange(width)[None, :] >= width - torch.tensor(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def row_of(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    length = int(batch["attention_mask"][row].sum())
    return {name: value[row : row + 1, -length:] for name, value in batch.items()}


def reference_ids(reference, batch, **settings) -> list[list[int]]:
    """What the reference writes, without the filling behind an end token."""
    settings = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 0} | settings
    out = reference.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :].tolist()
    ends = settings.get("eos_token_id") or []
    ends = ends if isinstance(ends, list) else [ends]
    cut = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in out]
    return [row[:end] for row, end in zip(out, cut, strict=True)]


def ids_of(generations: list[Generation]) -> list[list[int]]:
    return [list(generation.ids) for generation in generations]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_the_reference_for_64_tokens(seed: int) -> None:
    reference, model = reference_pair(seed)
    batch = prompts(seed, 9, 3, 6)
    options = SamplingOptions(max_tokens=64)
    assert ids_of(generate(model, batch, options)) == reference_ids(reference, batch)
    penalised = SamplingOptions(max_tokens=64, repetition_penalty=1.3)
    single = row_of(batch, 0)
    assert ids_of(generate(model, single, penalised)) == reference_ids(reference, single, repetition_penalty=1.3)


@pytest.mark.parametrize("seed", range(3))
def test_end_tokens_end_rows_one_by_one(seed: int) -> None:
    reference, model = reference_pair(seed)
    batch = prompts(seed + 10, 5, 8, 2)
    free = reference_ids(reference, batch)
    ends = sorted({free[0][7], free[1][20]})
    found = generate(model, batch, SamplingOptions(max_tokens=64), DecodingConstraints(eos=frozenset(ends)))
    assert ids_of(found) == reference_ids(reference, batch, eos_token_id=ends)
    for generation in found:
        assert (generation.finish_reason == "stop") == (generation.ids[-1] in ends)
        assert generation.counts["generated"] == len(generation.ids)
    assert [generation.counts["prompt"] for generation in found] == [5, 8, 2]


@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_beam_search_equals_the_reference(beams: int, length_penalty: float) -> None:
    reference, model = reference_pair(beams)
    batch = prompts(beams, 7, 4)
    ends = [5, 11, 23, 40]
    options = SamplingOptions(max_tokens=16, beams=beams, length_penalty=length_penalty)
    settings = {"num_beams": beams, "length_penalty": length_penalty, "max_new_tokens": 16, "early_stopping": False}
    for eos in ([], ends[:1], ends):
        expected = reference_ids(reference, batch, eos_token_id=eos or None, **settings)
        assert ids_of(generate(model, batch, options, DecodingConstraints(eos=frozenset(eos)))) == expected
    penalised = SamplingOptions(max_tokens=12, beams=beams, repetition_penalty=1.4)
    single = row_of(batch, 0)
    expected = reference_ids(reference, single, num_beams=beams, repetition_penalty=1.4, max_new_tokens=12)
    assert ids_of(generate(model, single, penalised)) == expected


@given(st.integers(0, 1000), st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 13))
@settings(max_examples=25, deadline=None)
def test_batches_of_unequal_length_equal_single_rows(seed: int, lengths: list[int], chunk: int) -> None:
    """Sampled ids of every row equal those of the row alone, in chunks of any size."""
    model = text_model(seed % 5)
    batch = prompts(seed, *lengths)
    options = [
        SamplingOptions(max_tokens=4 + i, temperature=0.8, top_p=0.9, seed=seed + i, repetition_penalty=1.1)
        for i in range(len(lengths))
    ]
    together = generate(model, batch, options, chunk=chunk)
    for i, option in enumerate(options):
        assert generate(model, row_of(batch, i), option)[0] == together[i]


def test_beams_of_a_batch_equal_single_rows() -> None:
    model = text_model(3)
    batch = prompts(3, 2, 9, 5)
    options = SamplingOptions(max_tokens=10, beams=3)
    constraints = DecodingConstraints(eos=frozenset({4, 9}))
    together = generate(model, batch, options, constraints)
    assert together == [generate(model, row_of(batch, i), options, constraints)[0] for i in range(3)]


def test_logprobs_are_those_of_a_full_pass() -> None:
    model = text_model(1)
    batch = prompts(1, 6, 4)
    options = SamplingOptions(max_tokens=9, temperature=0.7, seed=1, logprobs=3, repetition_penalty=1.5)
    for row, generation in enumerate(generate(model, batch, options)):
        assert generation.logprobs is not None
        ids = torch.cat([row_of(batch, row)["input_ids"][0], torch.tensor(generation.ids)])[None]
        with torch.no_grad():
            full = model(input_ids=ids).logits[0].log_softmax(-1)[-10:-1]
        found = torch.tensor([entry.logprob for entry in generation.logprobs])
        torch.testing.assert_close(found, full.gather(-1, ids[0, -9:, None])[:, 0], atol=1e-4, rtol=0)
        for entry, expected in zip(generation.logprobs, full, strict=True):
            assert [index for index, _ in entry.top] == expected.topk(3).indices.tolist()
    assert generate(model, batch, SamplingOptions(max_tokens=2))[0].logprobs is None
    bare = generate(model, batch, SamplingOptions(max_tokens=2, logprobs=0))[0].logprobs
    assert bare is not None and [entry.top for entry in bare] == [(), ()]


def test_text_streams_and_stop_strings_cross_token_borders() -> None:
    tokenizer = letters_tokenizer()
    model = text_model(2, tokenizer.vocab_size)
    batch = prompts(2, 5, 7)
    constraints = DecodingConstraints(tokenizer=tokenizer)
    options = SamplingOptions(max_tokens=40, temperature=1.5, seed=5)
    free = generate(model, batch, options, constraints)
    for row, generation in enumerate(free):
        assert generation.text == tokenizer.decode([i for i in generation.ids if i != tokenizer.eos_id])
        state = prefill_batch(model, batch, [options.max_tokens] * len(free))
        pieces = [piece for piece in answer(state, [options] * len(free), constraints) if piece.row == row]
        assert "".join(piece.text for piece in pieces) == generation.text
        assert tuple(piece.id for piece in pieces) == generation.ids
        assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert pieces[-1].finish_reason == generation.finish_reason
    text = free[0].text or ""
    stop = text[11:16]  # five letters: at least two tokens of this vocabulary
    cut = generate(model, batch, SamplingOptions(max_tokens=40, temperature=1.5, seed=5, stop=(stop,)), constraints)
    assert cut[0].text == text[: text.index(stop)] and cut[0].finish_reason == "stop"
    assert len(cut[0].ids) < len(free[0].ids) and free[0].ids[: len(cut[0].ids)] == cut[0].ids
    other = free[1].text or ""
    assert cut[1].text == (other[: other.index(stop)] if stop in other else other)


def test_rules_limit_what_is_written() -> None:
    model = text_model(0)
    even = torch.arange(0, VOCABULARY, 2)

    def allowed(ids) -> torch.Tensor | None:
        return even if len(ids) % 2 else None

    (found,) = generate(model, prompts(0, 4), SamplingOptions(max_tokens=20), DecodingConstraints(allowed=allowed))
    assert all(index % 2 == 0 for index in found.ids[1::2])


def test_the_context_is_never_exceeded() -> None:
    model = text_model(0, max_length=16)
    batch = prompts(0, 12, 5)
    found = generate(model, batch, SamplingOptions(max_tokens=100))
    assert [len(generation.ids) for generation in found] == [4, 11]
    assert [generation.finish_reason for generation in found] == ["length", "length"]
    with pytest.raises(PromptError, match="row 0: 16 prompt tokens fill the model's context of 16"):
        generate(model, prompts(0, 16), SamplingOptions(max_tokens=1))


def test_what_does_not_fit_is_named() -> None:
    model = text_model(0)
    batch = prompts(0, 5, 3)
    flipped = {name: value.flip(-1) for name, value in batch.items()}
    with pytest.raises(ConfigError, match="padded on the left"):
        generate(model, flipped)
    with pytest.raises(ConfigError, match="1 sampling options for 2 rows"):
        generate(model, batch, [SamplingOptions()])
    with pytest.raises(ConfigError, match="need a tokenizer"):
        generate(model, batch, SamplingOptions(stop=("x",)))
    with pytest.raises(ConfigError, match="same number of beams"):
        generate(model, batch, [SamplingOptions(beams=2), SamplingOptions()])


def test_generation_leaves_the_model_trainable() -> None:
    model = text_model(0)
    batch = prompts(0, 5)
    generate(model, batch, SamplingOptions(max_tokens=2))
    model(**batch).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
