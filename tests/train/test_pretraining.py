"""Momentum alignment, FLAVA, ViLT and BLIP-2's first stage: by definition, against ALBEF's official run, resumed."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.check.alignment import with_masked_words
from polymodal.check.evidence import albef, blip, blip_2, flava, vilt
from polymodal.errors import ConfigError
from polymodal.nn.losses import masked_token_loss
from polymodal.nn.transport import transport_distance
from polymodal.systems import get
from polymodal.train.momentum import MomentumAlignment
from polymodal.train.objectives import Losses
from polymodal.train.pretraining import ContrastMatchCaption, MaskedMultimodalModeling, WordPatchPretraining

PIXELS = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0], [1, 9, 10, 2, 0], [1, 4, 4, 4, 2]])
MASK = (IDS != 0).long()
HIDDEN = IDS.masked_fill(IDS == 4, 30).masked_fill(IDS == 8, 30)
LABELS = IDS.masked_fill(HIDDEN != 30, -100)
PAIRS = {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": MASK}


def built(system: str, config: Any, format: int = 0) -> Any:
    torch.manual_seed(0)
    return get(system).formats[format].model_spec(config).build()


def steps(model: Any, loss: Any, batch: dict[str, Tensor], count: int) -> list[Losses]:
    """Losses of some steps of gradient descent on the same batch."""
    optimiser = torch.optim.SGD([*model.parameters(), *(p for p in loss.parameters() if p.requires_grad)], lr=0.05)
    found = []
    for _ in range(count):
        losses = loss(model, batch)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        found.append({name: each.detach() for name, each in losses.items()})
    return found


def test_momentum_alignment_is_the_official_loss(official: Any) -> None:
    student, moved, queue, tensors = official
    ids, mask, pixels = (tensors[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values"))
    student = deepcopy(student)
    loss = MomentumAlignment(queue=16).build(student)
    loss.teacher.model.load_state_dict(moved.state_dict())
    loss.queue.load_state_dict(queue.state_dict())
    batch = {
        "input_ids": torch.cat((ids, ids[:1].flip(1))),
        "attention_mask": torch.cat((mask, mask[:1])),
        "pixel_values": torch.cat((pixels, pixels[:1].flip(3))),
    }
    losses = loss(student, batch)
    assert losses.keys() == {"contrastive", "match"}
    assert losses["contrastive"].item() == pytest.approx(float(tensors["out.contrast"][0]), abs=1e-4)
    assert loss.queue.place.item() == 4 and not torch.equal(loss.queue.images, queue.images)

    still = MomentumAlignment(queue=15, momentum=1.0).build(student)
    still.teacher.model.load_state_dict(moved.state_dict())
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "masked_input_ids": ids}
    words = still(student, {**batch, "labels": tensors["out.words_labels"]})["masked_words"]
    assert words.item() == pytest.approx(float(tensors["out.words_loss"][0]), abs=1e-4)


def test_the_teachers_share_rises_and_everything_resumes() -> None:
    model = built("albef", albef.small("pretrained"))
    loss = MomentumAlignment(queue=8, ramp_steps=4).build(model)
    assert [loss.alpha() for _ in range(6)] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4])

    batch = with_masked_words(lambda step: PAIRS)(0)
    objective = MomentumAlignment(queue=8, ramp_steps=4)
    loss = objective.build(model)
    assert not any(p.requires_grad for p in loss.teacher.parameters()) and loss.temperature is None
    steps(model, loss, batch, 3)
    torch.manual_seed(1)  # another queue and, but for the checkpoint, another teacher
    other = built("albef", albef.small("pretrained"))
    resumed = objective.build(other)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(loss.state_dict())
    torch.manual_seed(2)
    wanted = steps(model, loss, batch, 2)
    torch.manual_seed(2)
    found = steps(other, resumed, batch, 2)
    assert [{n: x.item() for n, x in each.items()} for each in found] == [
        {n: x.item() for n, x in each.items()} for each in wanted
    ]
    assert wanted[0].keys() == {"contrastive", "match", "masked_words"}


def test_a_model_without_a_temperature_gets_one_that_learns() -> None:
    model = built("blip", blip.small(blip.MATCH))
    loss = MomentumAlignment(queue=8).build(model)
    steps(model, loss, PAIRS, 2)
    assert loss.temperature is not None and loss.temperature.item() != pytest.approx(0.07, abs=1e-6)
    assert {"temperature", "step", "queue.images"} <= set(loss.state_dict())
    with pytest.raises(ConfigError, match="is for a FusionEncoder"):
        MomentumAlignment().build(torch.nn.Linear(2, 2))


@torch.no_grad()
def test_flava_learns_what_a_batch_holds() -> None:
    model = built("flava", flava.small()).eval()
    loss = MaskedMultimodalModeling().build(model)
    batch = flava.batches(0, 8)
    pictures = {name: x for name, x in batch.items() if name in flava.PICTURES}
    texts = {name: x for name, x in batch.items() if name not in flava.PICTURES}
    tokens = model.codec.encode(batch["codebook_pixel_values"]).flatten(1)
    hidden = batch["bool_masked_pos"]

    found = loss(model, pictures)
    alone = model.predictions(pixel_values=batch["pixel_values"], bool_masked_pos=hidden)["mim"][:, 1:]
    assert found["masked_patches"].item() == pytest.approx(
        F.cross_entropy(alone[hidden], tokens[hidden]).item(), abs=1e-5
    )
    found = loss(model, texts)
    alone = model.predictions(input_ids=batch["input_ids_masked"], attention_mask=batch["attention_mask"])["mlm"]
    assert found["masked_words"].item() == pytest.approx(masked_token_loss(alone, batch["mlm_labels"]).item(), abs=1e-5)

    found = loss(model, batch)
    assert found.keys() == {"contrastive", "match", "masked_patches", "masked_words"}
    joint = model.predictions(**{n: x for n, x in batch.items() if n not in ("codebook_pixel_values", "mlm_labels")})
    wanted = F.cross_entropy(joint["mmm_image"][hidden], tokens[hidden])
    assert found["masked_patches"].item() == pytest.approx(wanted.item(), abs=1e-5)
    assert found["masked_words"].item() == pytest.approx(
        masked_token_loss(joint["mmm_text"], batch["mlm_labels"]).item(), abs=1e-5
    )
    plain = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    assert found["contrastive"].item() == pytest.approx(model(**plain, return_loss=True).loss.item(), abs=1e-5)
    with pytest.raises(ConfigError, match="needs FLAVA's pretraining heads"):
        MaskedMultimodalModeling().build(built("flava", {**flava.small(), "architectures": [flava.MODEL]}))


def test_vilt_matches_and_aligns_half_of_the_pictures() -> None:
    model = built("vilt", vilt.small(vilt.MASKED)).eval()
    loss = WordPatchPretraining(alignment_weight=0.5).build(model)
    batch = {**PAIRS, "masked_input_ids": HIDDEN, "labels": LABELS}
    torch.manual_seed(4)
    losses = loss(model, batch)
    words = model(**{**PAIRS, "input_ids": HIDDEN}, labels=LABELS).losses["masked_words"]
    assert losses["masked_words"].item() == pytest.approx(words.item(), abs=1e-6)

    torch.manual_seed(4)
    true = torch.randperm(4) < 2
    seen = PIXELS[torch.where(true, torch.arange(4), (torch.arange(4) + 1) % 4)]
    hidden = model(**{**PAIRS, "pixel_values": seen}).hidden
    distances = []
    for row, length in enumerate(MASK.sum(1).tolist()):
        said, shown = hidden[row : row + 1, 1 : length - 1], hidden[row : row + 1, 6:]  # without [CLS], [SEP], class
        whole = [torch.ones(each.shape[:2], dtype=torch.bool) for each in (said, shown)]
        distances.append(transport_distance(said, shown, *whole) * (1 if true[row] else -1))
    assert losses["word_patch"].item() == pytest.approx(0.5 * torch.cat(distances).sum().item() / 4, abs=1e-5)
    logits = loss.match(torch.tanh(model.pooler(hidden[:, 0])))
    assert losses["match"].item() == pytest.approx(F.cross_entropy(logits, true.long()).item(), abs=1e-6)
    assert [name for name, p in loss.named_parameters() if p.requires_grad] == ["match.weight", "match.bias"]
    with pytest.raises(ConfigError, match="a pooler and a word head"):
        WordPatchPretraining().build(built("vilt", vilt.small(vilt.ANSWERS, num_labels=3)))


def test_blip_2_contrasts_matches_and_writes() -> None:
    check = blip_2.representing()
    model, batch = check.model.eval(), check.batches(0)
    loss = ContrastMatchCaption().build(model)
    losses = loss(model, batch)
    logits = model(**{name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}).logits / 0.07
    place = torch.arange(8)
    wanted = torch.stack([F.cross_entropy(x, place, label_smoothing=0.1) for x in (logits, logits.T)]).mean()
    assert losses["contrastive"].item() == pytest.approx(wanted.item(), abs=1e-5)

    states = model.caption_states(model.image_states(batch["pixel_values"]), batch["decoder_input_ids"])
    embedding = model.connectors["image"].words.weight
    words = F.layer_norm(F.gelu(loss.dense(states)), (48,), eps=1e-12) @ embedding.T
    wanted = F.cross_entropy(words[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.1)
    assert losses["caption"].item() == pytest.approx(wanted.item(), abs=1e-4)

    # Its own head and temperature learn and are saved.
    first = steps(model, loss, batch, 3)
    own = loss.state_dict()
    assert own.keys() == {"temperature", "bias", "dense.weight", "dense.bias", "norm.weight", "norm.bias"}
    assert own["temperature"].item() != pytest.approx(0.07) and first[0].keys() == {"contrastive", "match", "caption"}
    again = ContrastMatchCaption().build(model)
    again.load_state_dict(own)
    torch.manual_seed(0)
    left = loss(model, batch)
    torch.manual_seed(0)
    assert {n: x.item() for n, x in again(model, batch).items()} == {n: x.item() for n, x in left.items()}
    with pytest.raises(ConfigError, match="a Q-Former that reads texts"):
        ContrastMatchCaption().build(torch.nn.Linear(2, 2))
