"""The batches of a step: the same samples and gradients however they are cut, packed, prepared or shared by ranks."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import ConfigError
from polymodal.train.batches import PASS, BatchOptions, StepBatches, StepLoader, cut_by_length
from polymodal.train.collator import Learner
from polymodal.train.conversations import ConversationCollator, conversations
from polymodal.train.objectives import LanguageModeling
from tiny_folders import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny("llava-1.5", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, Any]] = []
    for number in range(10):
        Pillow.new("RGB", (20, 30), (25 * number, 80, 90)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Which?", "answer": "word " * (1 + number % 4)})
    rows.append({"question": "Who?", "answer": "me"})
    rows.append({"image": "gone.png", "caption": "nothing"})
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Mixture([open_dataset(folder / "a.jsonl")], seed=4)


def step_batches(
    model: Any, mixture: Mixture, options: BatchOptions, max_length: int | None = None, packing: bool = False
) -> StepBatches:
    learner = Learner(module=model.module, processor=model.processor, max_length=max_length, packing=packing,
                      ranks=options.ranks)  # fmt: skip
    return StepBatches(collator=conversations(learner), mixture=mixture, options=options)


def gradients(model: Any, batches: StepBatches, step: int = 0) -> dict[str, Tensor]:
    """Of the step's loss, micro batches weighted as the loop weights them."""
    objective, data = LanguageModeling().build(model.module), batches[step]
    model.module.zero_grad()
    for each in data.micro_batches:
        loss = sum(objective(model.module, each.batch).values())
        (loss * each.targets / data.targets).backward()
    return {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def test_gradients_do_not_depend_on_how_a_step_is_cut_or_packed(model: Any, mixture: Mixture) -> None:
    whole = BatchOptions(batch=12)
    expected = gradients(model, step_batches(model, mixture, whole, 480))
    scale = max(each.abs().max().item() for each in expected.values())
    for options, packing in (
        (replace(whole, micro_batch=5), False),
        (replace(whole, micro_batch=1), False),
        (whole, True),
        (replace(whole, micro_batch=2), True),
        (replace(whole, by_length=True), False),
        (replace(whole, by_length=True), True),
    ):
        found = gradients(model, step_batches(model, mixture, options, 480, packing))
        assert largest_difference(found, expected) <= 1e-4 * max(1.0, scale), (options, packing)


def test_rows_are_cut_where_padding_and_passes_cost_least() -> None:
    def lengths(*rows: int) -> list[list[int]]:
        return [list(map(len, group)) for group in cut_by_length([range(each) for each in rows])]  # type: ignore[misc]

    assert lengths(10, 12, 13) == [[10, 12, 13]]  # 9 tokens of padding are less than a pass
    assert lengths(10, 10, 10, 400) == [[10, 10, 10], [400]]
    assert lengths(90, 100, 200, 210, 900) == [[90, 100], [200, 210], [900]] and lengths() == []
    rows = sorted(random.Random(0).randrange(8, 300) for _ in range(12))
    cost = sum(len(group) * max(group) + PASS for group in lengths(*rows))
    every = [[[rows[0]]]]
    for row in rows[1:]:  # all ways to cut them
        every = [way for cut in every for way in ([*cut[:-1], [*cut[-1], row]], [*cut, [row]])]
    assert cost == min(sum(len(group) * max(group) + PASS for group in cut) for cut in every)


def test_a_damaged_sample_leaves_its_place_empty_and_is_named(model: Any, mixture: Mixture) -> None:
    batches = step_batches(model, mixture, BatchOptions(batch=12))
    data = batches[0]
    assert data.samples == 11 and len(data.names) == 11
    (skipped,) = data.skipped
    assert skipped.startswith("a.jsonl:12: there is no file") and "gone.png" in skipped
    assert sum(each.targets for each in data.micro_batches) == data.targets > 0


def test_workers_prepare_the_same_steps_from_any_start(model: Any, mixture: Mixture) -> None:
    batches = step_batches(model, mixture, BatchOptions(batch=4), 480, True)
    here, ahead = StepLoader(batches, 7), StepLoader(batches, 7, workers=2)
    for step in (3, 4, 5, 6):
        left, right = here(step), ahead(step)
        assert left.names == right.names and left.skipped == right.skipped
        for one, other in zip(left.micro_batches, right.micro_batches, strict=True):
            assert all(torch.equal(one.batch[key], other.batch[key]) for key in ("input_ids", "labels", "pixel_values"))


def test_ranks_share_a_step_and_their_gradients_add_up(model: Any, mixture: Mixture) -> None:
    options = BatchOptions(batch=12)
    whole = step_batches(model, mixture, options)
    ranks = [step_batches(model, mixture, replace(options, rank=rank, ranks=2)) for rank in (0, 1)]
    shares = [each[0] for each in ranks]
    assert sorted(name for share in shares for name in share.names) == sorted(whole[0].names)
    targets = whole[0].targets
    assert sum(share.targets for share in shares) == targets
    expected, parts = gradients(model, whole), [gradients(model, each) for each in ranks]
    added = {
        name: sum(part[name] * share.targets / targets for part, share in zip(parts, shares, strict=True))
        for name in expected
    }
    assert largest_difference(added, expected) <= 1e-4 * max(1.0, max(e.abs().max().item() for e in expected.values()))


def test_a_blank_row_teaches_nothing(model: Any, mixture: Mixture) -> None:
    batches = step_batches(model, mixture, BatchOptions(batch=4, ranks=2))
    blank: Any = batches.collator.blank()
    assert blank.targets == 0
    objective = LanguageModeling().build(model.module)
    model.module.zero_grad()
    sum(objective(model.module, blank.batch).values()).backward()
    assert not any(p.grad.any() for p in model.module.parameters() if p.grad is not None)


def test_of_a_plain_text_every_token_and_its_end_are_learned(model: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ab c"}')
    batches = step_batches(model, Mixture([open_dataset(tmp_path / "a.jsonl")]), BatchOptions(batch=1))
    _, row = batches.item(0, 0)
    tokenizer = model.processor.tokenizer
    assert tokenizer.decode(row.input_ids) == "ab c" and row.input_ids[-1] == tokenizer.eos_id
    assert [id for id, learned in zip(row.input_ids, row.loss_mask, strict=True) if learned] == row.input_ids[-5:]


def test_of_several_answers_the_commonest_is_learned(model: Any, tmp_path: Path) -> None:
    """As lists, with how many gave each, and as VQA's own files have them."""
    told: list[Any] = [["no", "two", "two"], {"two": 0.9, "no": 0.1}, [{"answer": "two"}, {"answer": "two"}]]
    rows = [{"question": "How many?", "answers": each} for each in told]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": "How many?", "answer": "two"}))
    collator = conversations(Learner(module=model.module, processor=model.processor))
    (wanted,) = [collator.item(open_dataset(tmp_path / "b.jsonl").sample(0))]
    data = open_dataset(tmp_path / "a.jsonl")
    for index in range(3):
        assert collator.item(data.sample(index)).input_ids == wanted.input_ids


def test_rows_too_long_are_cut_but_never_inside_media(model: Any, mixture: Mixture) -> None:
    _, row = step_batches(model, mixture, BatchOptions(batch=1)).item(0, 0)
    (span,) = row.media_spans
    answer = row.loss_mask.index(True)
    cut = step_batches(model, mixture, BatchOptions(batch=12), answer + 3)[0]
    assert cut.samples and all(each.batch["input_ids"].shape[1] <= answer + 3 for each in cut.micro_batches)
    inside = step_batches(model, mixture, BatchOptions(batch=12), span.end - 2)[0]
    assert not inside.samples
    assert any("would cut the image" in each for each in inside.skipped)
    assert any("has no token to learn within" in each for each in inside.skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 1, "ranks": 2}, "a batch of 1 samples cannot be shared by 2 processes"),
        ({"batch": 4, "micro_batch": 0}, "micro batch: expected 1 row or more, found 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BatchOptions(**options)


def test_packing_needs_a_length(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"packing needs budget\.max_length"):
        ConversationCollator(processor=model.processor, packing=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
