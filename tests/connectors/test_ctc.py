"""The CTC connector: padding has no effect, runs become tokens, embeddings are rows of the table."""

import pytest
import torch

from polymodal.connectors.ctc import CTCConnector, CTCConnectorConfig, collapse_runs
from polymodal.errors import ConfigError


def connector(**changes: int) -> CTCConnector:
    torch.manual_seed(0)
    config = CTCConnectorConfig(**{"vocab_size": 5, "width": 16, "kernel": 3, "key_width": 8, "top": 2, **changes})
    made = config.build(12, 6).eval()
    made.token_ids.copy_(torch.tensor([3, 4, 5, 6, 7]))
    made.set_embeddings(torch.randn(10, 6))
    return made


@pytest.mark.parametrize("changes", [{}, {"early": 2, "late": 1, "kernel": 5}, {"early": 0, "late": 0, "top": 9}])
def test_items_of_a_batch_are_what_they_are_alone(changes: dict[str, int]) -> None:
    model, features, lengths = connector(**changes), torch.randn(3, 21, 12), [21, 10, 7]
    together = model(features, torch.tensor(lengths))
    for item, length, found in zip(features, lengths, together, strict=True):
        (alone,) = model(item[None, :length])
        assert found.shape == alone.shape and found.shape[1] == 6 and len(found) >= 1
        assert torch.allclose(found, alone, atol=1e-5)


def test_a_run_of_one_class_is_one_token_and_blanks_separate_runs() -> None:
    frames = [0, 0, 2, 0, 1, 1, 2, 2]  # the last class is the blank
    probs = torch.nn.functional.one_hot(torch.tensor(frames), 3) * 0.7 + 0.1
    assert collapse_runs(probs).argmax(-1).tolist() == [0, 0, 1]
    assert torch.allclose(collapse_runs(probs).sum(-1), torch.ones(3))


def test_silence_gives_one_token() -> None:
    assert torch.allclose(collapse_runs(torch.tensor([[0.1, 0.2, 0.7], [0.0, 0.2, 0.8]])), torch.tensor([[0.2, 0.8]]))


def test_a_certain_token_is_a_row_of_the_table() -> None:
    model = connector()
    embedded = model.embed(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]]))
    assert torch.equal(embedded[0], model.rows[2])
    assert torch.allclose(embedded[1], model.rows[:2].mean(0))


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel must be odd"):
        CTCConnectorConfig(vocab_size=5, kernel=4).build(12, 6)
