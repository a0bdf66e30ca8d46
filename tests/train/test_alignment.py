"""Objectives of the fusion encoders: losses against the official ALBEF run, the rest against plain loops."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from polymodal.errors import ConfigError
from polymodal.nn import losses
from polymodal.train import alignment as a

TOLERANCE = 1e-4


def features(model, batch):
    found = model.features(**batch)
    return F.normalize(found["image"], dim=-1), F.normalize(found["text"], dim=-1)


@torch.no_grad()
def test_contrast_with_queue_and_soft_targets_equals_the_official_loss(official) -> None:
    student, moved, queue, tensors = official
    ids, mask, pixels = (tensors[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values"))
    batch = {
        "input_ids": torch.cat((ids, ids[:1].flip(1))),
        "attention_mask": torch.cat((mask, mask[:1])),
        "pixel_values": torch.cat((pixels, pixels[:1].flip(3))),
    }
    teacher = a.Teacher(moved)
    teacher.follow(student)
    scale = partial(a.scaled, temperature=student.temperature)
    found = a.contrast(features(student, batch), features(teacher.model, batch), queue, scale, alpha=0.4)
    assert (found.loss - tensors["out.contrast"][0]).abs() <= TOLERANCE
    assert found.image_to_text.shape == (4, 20)


@torch.no_grad()
def test_masked_words_with_a_teacher_equal_the_official_loss(official) -> None:
    student, moved, _, tensors = official
    batch = {name: tensors[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values")}
    loss = losses.masked_token_loss(
        student.masked_words(**batch), tensors["out.words_labels"], moved.masked_words(**batch), alpha=0.4
    )
    assert (loss - tensors["out.words_loss"][0]).abs() <= TOLERANCE


def test_both_styles_of_temperature_and_neither() -> None:
    x = torch.tensor([[1.0, 2.0]])
    assert torch.allclose(a.scaled(x, temperature=0.5), a.scaled(x, log_scale=torch.tensor(2.0).log()))
    with pytest.raises(ConfigError, match="either temperature or log_scale"):
        a.scaled(x)


def test_pair_loss_skips_pairs_that_are_none() -> None:
    logits = torch.randn(4, 4)
    kept = torch.tensor([True, False, True, True])
    rows = [0, 2, 3]
    wanted = sum(F.cross_entropy(logits[i : i + 1], torch.tensor([i])) for i in rows)
    wanted += sum(F.cross_entropy(logits.T[i : i + 1], torch.tensor([i])) for i in rows)
    assert losses.pair_loss(logits, kept) == pytest.approx(float(wanted) / 6, abs=1e-5)


def test_queue_replaces_the_oldest_whatever_the_batch_and_refuses_one_that_exceeds_it() -> None:
    queue = a.FeatureQueue(4, 3)
    for i in range(3):
        unit = F.normalize(torch.full((2, 3), float(i + 1)), dim=1)
        queue.push(unit * (i + 1), unit, torch.tensor([2 * i, 2 * i + 1]))
    assert queue.ids.tolist() == [4, 5, 2, 3]
    assert queue.images[0].tolist() == pytest.approx([3 / 3**0.5] * 2 + [2 / 3**0.5] * 2)
    queue.push(torch.zeros(3, 3), torch.zeros(3, 3), torch.tensor([6, 7, 8]))
    assert queue.ids.tolist() == [8, 5, 6, 7] and int(queue.place) == 1
    with pytest.raises(ConfigError, match="holds 4 vectors, which a batch of 5 exceeds"):
        queue.push(torch.zeros(5, 3), torch.zeros(5, 3))


def test_pictures_with_one_id_are_positives_of_one_another_in_batch_and_queue() -> None:
    queue = a.FeatureQueue(2, 5)
    queue.ids[1] = 7
    image, text = F.normalize(torch.randn(3, 5), dim=1), F.normalize(torch.randn(3, 5), dim=1)
    ids = torch.tensor([7, 8, 7])
    scale = partial(a.scaled, temperature=0.1)
    found = a.contrast((image, text), (image, text), queue, scale, ids=ids)
    logits = torch.cat((image @ text.T, image @ queue.texts), 1) / 0.1
    wanted = -logits.log_softmax(1)
    by_hand = (wanted[0, [0, 2, 4]].mean() + wanted[1, 1] + wanted[2, [0, 2, 4]].mean()) / 3
    logits = torch.cat((text @ image.T, text @ queue.images), 1) / 0.1
    wanted = -logits.log_softmax(1)
    by_hand = by_hand + (wanted[0, [0, 2, 4]].mean() + wanted[1, 1] + wanted[2, [0, 2, 4]].mean()) / 3
    assert found.loss == pytest.approx(float(by_hand) / 2, abs=1e-5)


def test_teacher_moves_by_the_momentum_and_is_not_trained() -> None:
    student = torch.nn.Linear(2, 2)
    teacher = a.Teacher(student, momentum=0.9)
    before = teacher.model.weight.clone()
    with torch.no_grad():
        student.weight.add_(1.0)
    teacher.follow(student)
    assert torch.allclose(teacher.model.weight, before + 0.1)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_negatives_are_hard_and_never_right() -> None:
    logits = torch.tensor([[9.0, 8.0, -9.0], [0.0, 9.0, -9.0], [-9.0, 5.0, 9.0]])
    drawn = torch.stack([losses.negatives(logits, torch.Generator().manual_seed(i)) for i in range(30)])
    assert (drawn[:, 0] == 1).all()
    assert (drawn[:, 1] == 0).all()
    assert (drawn[:, 2] == 1).all()
    same = losses.negatives(logits, ids=torch.tensor([3, 3, 4]))
    assert same[0] == 2
    assert same[1] == 2


def test_match_loss_counts_true_pairs_first() -> None:
    logits = torch.randn(6, 2)
    wanted = F.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0]))
    assert torch.equal(losses.match_loss(logits, 2), wanted)


def test_words_are_masked_in_the_published_shares_and_exempt_ones_never() -> None:
    ids = torch.randint(5, 1000, (200, 50), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 101, 0
    masking = a.WordMasking(mask=103, vocabulary=1000, exempt=(0, 101))
    made, labels = masking(ids, torch.Generator().manual_seed(1))
    hidden = labels != -100
    assert not hidden[:, 0].any()
    assert not hidden[:, -1].any()
    assert hidden[:, 1:-1].float().mean() == pytest.approx(0.15, abs=0.02)
    assert torch.equal(made[~hidden], ids[~hidden])
    assert (made[hidden] == 103).float().mean() == pytest.approx(0.8, abs=0.04)
    assert (made[hidden] == labels[hidden]).float().mean() == pytest.approx(0.1, abs=0.04)


def test_next_word_loss_is_weighted_and_smoothed_as_published() -> None:
    logits, labels = torch.randn(2, 4, 9), torch.tensor([[-100, 3, 4, -100], [-100, 5, 6, 7]])
    rows = [
        F.cross_entropy(logits[0, [0, 1]], torch.tensor([3, 4]), reduction="sum", label_smoothing=0.1),
        F.cross_entropy(logits[1, :3], torch.tensor([5, 6, 7]), reduction="sum", label_smoothing=0.1),
    ]
    weights = torch.tensor([0.25, 1.0])
    found = losses.language_model_loss(logits, labels, smoothing=0.1, answer_weights=weights)
    assert found == pytest.approx(float(0.25 * rows[0] + rows[1]) / 2, abs=1e-5)
    assert losses.language_model_loss(logits, labels, smoothing=0.1) == pytest.approx(
        float(rows[0] + rows[1]) / 5, abs=1e-5
    )


def test_patches_are_hidden_in_blocks() -> None:
    masks = [a.PatchMasking()(torch.Generator().manual_seed(i)) for i in range(5)]
    assert all(mask.shape == (14, 14) and 60 <= int(mask.sum()) <= 75 for mask in masks)
    assert not torch.equal(masks[0], masks[1])
