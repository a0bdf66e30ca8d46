"""DPO against its formula in plain torch, on a tiny model with pictures; what of the frozen model costs memory."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.opening import open_dataset
from polymodal.errors import ConfigError, PromptError
from polymodal.train.batches import BatchOptions, StepBatches
from polymodal.train.collator import Learner
from polymodal.train.loop import begin
from polymodal.train.optimizer import AdamW
from polymodal.train.preference import Preference, preference_loss
from polymodal.train.recipe import Stage
from stage_folders import chosen_answers
from tiny_folders import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny("llava-1.5", tmp_path_factory.mktemp("llava"))


def batch_of(model: Any, folder: Path) -> dict[str, Any]:
    objective = Preference()
    collator = objective.collator(Learner(module=model.module, processor=model.processor))
    mixture = Mixture([open_dataset(chosen_answers(folder))], shuffle=False)
    data = StepBatches(collator=collator, mixture=mixture, options=BatchOptions(batch=4))[0]
    (found,) = data.micro_batches
    assert found.targets == data.samples == 4
    return dict(found.batch)


def plain(module: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The sum of the log-probabilities of the labels of each row."""
    logits = module(**{name: value for name, value in batch.items() if name != "labels"}).logits
    scores = logits[:, :-1].log_softmax(-1)
    labels = batch["labels"][:, 1:]
    chosen = scores.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    return torch.where(labels == -100, torch.zeros(()), chosen).sum(1)


def test_the_loss_is_the_formula_of_the_paper(model: Any, tmp_path: Path) -> None:
    batch, config = batch_of(model, tmp_path), Preference(beta=0.3, supervised=0.5)
    objective = config.build(model.module)
    with torch.no_grad():
        before = [plain(model.module, batch[name]) for name in ("chosen", "rejected")]
        at_first = objective(model.module, batch)
        assert float(at_first["preference"]) == pytest.approx(float(torch.log(torch.tensor(2.0))), abs=1e-6)
        kept = {name: p.clone() for name, p in model.module.named_parameters()}
        for parameter in model.module.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        after = [plain(model.module, batch[name]) for name in ("chosen", "rejected")]
        found = objective(model.module, batch)
        margins = 0.3 * ((after[0] - after[1]) - (before[0] - before[1]))
        supervised = model.module(**batch["chosen"]).loss
        for name, parameter in model.module.named_parameters():
            parameter.copy_(kept[name])
    assert margins.abs().max() > 0.1
    assert float(found["preference"]) == pytest.approx(float(-F.logsigmoid(margins).mean()), abs=1e-5)
    assert float(found["supervised"]) == pytest.approx(float(0.5 * supervised), abs=1e-5)


def test_the_loss_is_trls() -> None:
    """DPOTrainer.compute_loss of trl 1.16.0 (loss_type sigmoid) for two pairs of a random LLaMA, with the differences
    of log-probabilities that it was computed from."""
    learned = torch.tensor([63.38114929199219, -64.71075439453125])
    before = torch.tensor([61.731903076171875, -61.820762634277344])
    for beta, loss in ((0.1, 0.7310656905174255), (0.5, 1.0101003646850586)):
        assert float(preference_loss(learned, before, beta)) == pytest.approx(loss, abs=2e-6)


def test_the_frozen_model_shares_what_does_not_learn_and_is_in_no_checkpoint(model: Any) -> None:
    stage = Stage(name="prefer", data=(), objective=Preference(), train=("connectors",), optimizer=AdamW(lr=1e-3))
    objective: Any = begin(model.module, stage, seed=0).objective
    (frozen,) = objective._frozen
    ours, theirs = dict(model.module.named_parameters()), dict(frozen.named_parameters())
    own = {name for name in theirs if theirs[name] is not ours[name]}
    assert own == {name for name in theirs if name.startswith("connectors.")}
    assert not objective.state_dict() and not list(objective.parameters()) and not frozen.training
    assert all(parameter.requires_grad for name, parameter in ours.items() if name.startswith("connectors."))
    model.module.requires_grad_(True)


def test_only_decoders_learn_preferences(model: Any) -> None:
    with pytest.raises(ConfigError, match="preferences are learned by a decoder, not by a Linear"):
        Preference().build(torch.nn.Linear(2, 2))


def test_answers_of_any_spelling_become_two_conversations(tmp_path: Path) -> None:
    samples = open_dataset(chosen_answers(tmp_path))
    for index in (0, 1):
        sample = samples.sample(index)
        assert sample.messages[:-1] == sample.rejected[:-1] and sample.messages[-1] != sample.rejected[-1]
    (tmp_path / "bad.jsonl").write_text(json.dumps({"chosen": "a", "rejected": "b"}))
    with pytest.raises(PromptError, match=r"bad\.jsonl:1: has chosen and rejected answers; expected messages"):
        open_dataset(tmp_path / "bad.jsonl").sample(0)
    assert replace(samples.sample(0), rejected=()).rejected == ()
