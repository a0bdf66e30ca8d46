"""Each objective equals its definition, computed by hand from the model's public outputs, at tiny size."""

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.check import imagebind_lm
from polymodal.check.demo import spread_codes
from polymodal.check.evidence import beit, chameleon, clip, emu3, llava_1_5, mult, next_gpt, vit
from polymodal.errors import ConfigError
from polymodal.models.output import Output
from polymodal.nn.losses import ctc_loss, pair_loss
from polymodal.systems import Classification, Contrastive, LanguageModeling, Regression, SumOfSources, get
from polymodal.train.names import MultipleInstance
from polymodal.train.objectives import (
    MaskedImageModeling,
    SignalAlignment,
)
from polymodal.train.speech import CTC

PIXELS = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def built(system: str, config: Any, format: int = 0) -> Any:
    torch.manual_seed(0)
    return get(system).formats[format].model_spec(config).build().eval()


def llava() -> tuple[Any, dict[str, Tensor]]:
    ids = torch.tensor([[1, *[39] * 16, 5, 6, 7], [1, *[39] * 16, 8, 9, 9]])
    labels = ids.clone()
    labels[:, :18], labels[1, 19] = -100, -100
    return built("llava-1.5", llava_1_5.small(40, 39)), {"input_ids": ids, "pixel_values": PIXELS, "labels": labels}


def next_tokens(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of -log P of every learned token, place by place."""
    found, counted = [], []
    for row in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if (wanted := int(labels[row, place])) >= 0:
                counted.append(1.0 if weights is None else float(weights[wanted]))
                found.append(-logits[row, place - 1].log_softmax(-1)[wanted] * counted[-1])
    return torch.stack(found).sum() / sum(counted)


@torch.no_grad()
def test_language_modeling_is_the_mean_over_learned_tokens() -> None:
    model, batch = llava()
    losses = LanguageModeling(z_loss_weight=0.5).build(model)(model, batch)
    logits = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
    assert losses["language_model"].item() == pytest.approx(next_tokens(logits, batch["labels"]).item(), abs=1e-5)
    learned = F.pad(batch["labels"][:, 1:], (0, 1), value=-100) >= 0
    assert losses["z_loss"].item() == pytest.approx(
        0.5 * logits[learned].logsumexp(-1).square().mean().item(), abs=1e-4
    )
    assert set(LanguageModeling().build(model)(model, batch)) == {"language_model"}


def pictures_as_ids(system: str, config: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The model, a batch whose labels are all its ids, and the same with the pictures' own ids written out."""
    model = built(system, config)
    if system == "chameleon":
        spread_codes(model)
    else:
        emu3.spread(model)
    count = 16 if system == "chameleon" else emu3.GRID * (emu3.GRID + 1)
    ids = torch.tensor([[33, *[31] * count, 34, 5, 6], [33, *[31] * count, 34, 7, 8]])
    pixels = PIXELS[:, :, :16, :16]
    values = {"pixel_values": pixels} if system == "chameleon" else emu3.padded(list(pixels))
    batch = {"input_ids": ids, "labels": ids.clone(), **values}
    return model, batch, model.with_token_ids(batch)


@torch.no_grad()
def test_ids_of_pictures_are_learned_as_words_are() -> None:
    model, batch, written = pictures_as_ids("chameleon", chameleon.small(40, 31))
    losses = LanguageModeling(z_loss_weight=1e-5).build(model)(model, batch)
    logits = model.backbone.head(model(input_ids=written["input_ids"]).hidden)
    assert losses["language_model"].item() == pytest.approx(next_tokens(logits, written["labels"]).item(), abs=1e-5)
    assert losses["z_loss"].item() == pytest.approx(
        1e-5 * logits[:, :-1].logsumexp(-1).square().mean().item(), rel=1e-4
    )


@torch.no_grad()
def test_ids_of_pictures_count_by_their_weight_and_may_be_learned_alone() -> None:
    model, batch, written = pictures_as_ids("emu3", emu3.small(40, 31, 32))
    logits = model.backbone.head(model(input_ids=written["input_ids"]).hidden)
    weights = torch.ones(model.backbone.config.vocab_size)
    weights[model.vocabulary_ids("image")] = 0.5
    found = LanguageModeling(picture_id_weight=0.5).build(model)(model, batch)["language_model"]
    assert found.item() == pytest.approx(next_tokens(logits, written["labels"], weights).item(), abs=1e-5)
    here = batch["input_ids"] == 31
    for learn, kept in ((("image",), here), (("text",), ~here), (("text", "image"), here | ~here)):
        found = LanguageModeling(learn=learn).build(model)(model, batch)["language_model"]
        wanted = next_tokens(logits, written["labels"].masked_fill(~kept, -100))
        assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    with pytest.raises(ConfigError, match="learn names 'sound'; the model has text, image"):
        LanguageModeling(learn=("sound",)).build(model)
    with pytest.raises(ConfigError, match="whose vocabulary holds pictures"):
        LanguageModeling(picture_id_weight=0.5).build(llava()[0])


@torch.no_grad()
def test_contrast_is_both_directions_and_bounds_the_scale() -> None:
    model = built("clip", clip.tiny(40, 2))
    batch = {"pixel_values": PIXELS[:, :, :32, :32], "input_ids": torch.tensor([[1, 5, 2], [1, 6, 2]])}
    plain = Contrastive().build(model)(model, batch)["contrastive"]
    assert plain.item() == pytest.approx(pair_loss(model(**batch).logits).item(), abs=1e-6)
    model.logit_scale.fill_(9.0)
    bounded = Contrastive(max_logit_scale=100.0).build(model)(model, batch)["contrastive"]
    assert model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)
    assert bounded.item() == pytest.approx(pair_loss(model(**batch).logits).item(), abs=1e-6)
    with pytest.raises(ConfigError, match="models that learn the factor"):
        Contrastive(max_logit_scale=100.0).build(llava()[0])


@torch.no_grad()
def test_classes_scores_and_hidden_patches() -> None:
    classifier = built("vit", vit.tiny(["a", "b", "c"]))
    batch = {"pixel_values": PIXELS[:, :, :32, :32], "labels": torch.tensor([2, 0])}
    found = Classification().build(classifier)(classifier, batch)["classification"]
    logits = classifier(pixel_values=batch["pixel_values"]).logits
    assert found.item() == pytest.approx(F.cross_entropy(logits, batch["labels"]).item(), abs=1e-6)
    with pytest.raises(ConfigError, match="no loss of a batch of pixel_values; add labels"):
        Classification().build(classifier)(classifier, {"pixel_values": batch["pixel_values"]})

    scorer = built("mult", mult.SMALL)
    data = {name: x[:4] for name, x in mult.sequences(4).items()}
    labels = data.pop("score")
    found = Regression().build(scorer)(scorer, {**data, "labels": labels})["score"]
    assert found.item() == pytest.approx((scorer(**data).logits[:, 0] - labels).abs().mean().item(), abs=1e-6)

    masked = built("beit", {**beit.TINY, "architectures": [beit.MASKED], "use_mask_token": True}, 1)
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[0, :5], hidden[1, 9] = True, True
    words = torch.arange(32).reshape(2, 16) % 8
    given = {"pixel_values": batch["pixel_values"], "bool_masked_pos": hidden}
    found = MaskedImageModeling().build(masked)(masked, {**given, "labels": words})["masked_patches"]
    logits = masked(**given).logits[:, -16:]
    assert found.item() == pytest.approx(F.cross_entropy(logits[hidden], words[hidden]).item(), abs=1e-6)


@torch.no_grad()
def test_signals_come_near_their_targets() -> None:
    model = next_gpt.tiny().eval()
    targets = torch.randn(8, 4, 768, generator=torch.Generator().manual_seed(1))
    batch = imagebind_lm.caption_check(model, [1, -1, 2], suffix=model.signals["image"], count=8).batches(0)
    losses = SignalAlignment(distance_weight=2.0).build(model)(model, {**batch, "signal_targets": {"image": targets}})
    plain = {name: x for name, x in batch.items() if name != "labels"}
    found = model.conditions(**plain)["image"]
    wanted = torch.stack([(a - b).norm() for a, b in zip(found.flatten(0, 1), targets.flatten(0, 1), strict=True)])
    assert losses["image_distance"].item() == pytest.approx(2 * wanted.mean().item(), rel=1e-5)
    assert losses["language_model"].item() == pytest.approx(model(**batch).loss.item(), abs=1e-5)
    with pytest.raises(ConfigError, match=r"signal_targets of image are \[7, 4, 768\], the signals \[8, 4, 768\]"):
        SignalAlignment().build(model)(model, {**batch, "signal_targets": {"image": targets[:7]}})
    with pytest.raises(ConfigError, match="written by a SignalTokenLM"):
        SignalAlignment().build(llava()[0])


@torch.no_grad()
def test_batches_of_several_sources_are_weighted_and_summed() -> None:
    model, batch = llava()
    both = SumOfSources(objective=LanguageModeling(), weights={"pages": 1.0, "pairs": 0.2, "films": 0.03}).build(model)
    other = {**batch, "labels": batch["labels"].roll(1, 0)}
    losses = both(model, {"pages": batch, "pairs": other})
    assert losses.keys() == {"pages: language_model", "pairs: language_model"}
    assert losses["pairs: language_model"].item() == pytest.approx(0.2 * model(**other).loss.item(), abs=1e-6)
    with pytest.raises(ConfigError, match="a batch of sounds; expected batches of"):
        both(model, {"sounds": batch})


class Heads(nn.Module):
    """Gives what it was given."""

    def forward(self, **given: Tensor) -> Output:
        return Output(logits=given.get("logits"), predictions=given)


def test_several_right_names_share_their_chance() -> None:
    logits, right = torch.randn(3, 5), torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    model = Heads()
    found = MultipleInstance().build(model)(model, {"logits": logits, "right": right})["names"]
    wanted = -(logits.softmax(-1) * right).sum(-1).log().mean()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_ctc_sums_over_every_way_to_say_the_targets() -> None:
    torch.manual_seed(0)
    logits, lengths, targets = torch.randn(2, 4, 3), torch.tensor([4, 3]), [[0, 1], [1]]
    wanted = []
    for row, ids in enumerate(targets):
        chances = logits[row].softmax(-1)
        total = 0.0
        for path in product(range(3), repeat=int(lengths[row])):
            merged = [p for i, p in enumerate(path) if p != 2 and (i == 0 or p != path[i - 1])]
            if merged == ids:
                total += float(torch.stack([chances[i, p] for i, p in enumerate(path)]).prod())
        wanted.append(-torch.tensor(total).log() / len(ids))
    assert ctc_loss(logits, lengths, targets).item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)
    model, given = Heads(), {"words": logits, "words_lengths": lengths, "targets": {"words": targets}}
    found = CTC(weights={"words": 0.7}).build(model)(model, given)
    assert found["words"].item() == pytest.approx(0.7 * ctc_loss(logits, lengths, targets).item(), abs=1e-6)


def test_a_loss_without_a_state_leaves_nothing_in_a_checkpoint() -> None:
    model, _ = llava()
    for objective in (LanguageModeling(), Classification(), Regression(), MaskedImageModeling()):
        assert not objective.build(model).state_dict()
