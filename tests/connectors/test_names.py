"""The names connector against the rule of its docstring, written out again by loops."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from polymodal.connectors.names import NamesConfig, NamesConnector
from polymodal.errors import ConfigError

CONFIG = NamesConfig(names=7, classes=3, name_tokens=3, key_width=5, class_width=4, cells=2, cell_width=3,
                     hidden_width=6, top=3, word_slots=6, dense_slots=2)  # fmt: skip
NAMES = [[10], [11, 12], [13, 14, 15], [16], [17, 10], [18], [19]]
SEPARATOR, FILLER = 1, 2


@pytest.fixture
def connector() -> NamesConnector:
    torch.manual_seed(0)
    made = CONFIG.build(in_width=8, out_width=4)
    for tensor in [*made.parameters(), made.centre]:
        torch.nn.init.normal_(tensor, std=0.5)
    made.spread.uniform_(0.5, 2)
    made.keys.copy_(F.normalize(torch.randn(7, 5), dim=-1))
    made.class_keys.copy_(F.normalize(torch.randn(3, 4), dim=-1))
    made.class_index.copy_(torch.tensor([4, 0, 6]))
    made.set_names(NAMES, SEPARATOR, FILLER, torch.randn(20, 4))
    return made.eval()


def test_summary_averages_some_channels_and_keeps_others_in_place(connector: NamesConnector) -> None:
    features = torch.randn(3, 2, 8)
    raw = torch.cat([features[:, :, :5].mean(1), features[:, 0, 5:], features[:, 1, 5:]], -1)
    assert torch.allclose(connector.summary(features), (raw - connector.centre) / connector.spread, atol=1e-6)


def test_logits_join_both_spaces(connector: NamesConnector) -> None:
    summary = torch.randn(2, 11)
    with torch.no_grad():
        found = connector.logits(summary)
        near = F.normalize(connector.sentence(summary), dim=-1)
        shown = F.normalize(connector.recall(summary), dim=-1)
    mix = connector.mix.tolist()
    for row in range(2):
        for name in range(7):
            expected = (near[row] @ connector.keys[name]).item() * math.exp(mix[0])
            for place, index in enumerate([4, 0, 6]):
                if index == name:
                    shown_here = (shown[row] @ connector.class_keys[place]).item()
                    expected += shown_here * math.exp(mix[1]) + mix[2]
            assert found[row, name].item() == pytest.approx(expected, abs=1e-4)


def test_words_are_rows_of_the_table_in_order_of_likelihood(connector: NamesConnector) -> None:
    torch.manual_seed(1)
    table = torch.randn(20, 4)
    connector.set_names(NAMES, SEPARATOR, FILLER, table)
    logits = torch.tensor([[0.0, 3, 2, 1, 0, 0, 0], [5.0, 0, 0, 4, 0, 3, 0]])
    tokens, weights = connector.pack(*connector.top_names(logits))
    # names 1, 2, 3: the third no longer fits behind 2 + 3 tokens and separators; names 0, 3, 5 leave room
    expected = [[11, 12, SEPARATOR, 13, 14, 15], [10, SEPARATOR, 16, SEPARATOR, 18, SEPARATOR]]
    assert torch.equal(connector.rows[tokens], table[torch.tensor(expected)])
    chances = logits.log_softmax(-1)
    first = [chances[0, 1]] * 2 + [torch.tensor(0.0)] + [chances[0, 2]] * 3
    assert torch.allclose(weights[0], torch.stack(first))
    few = connector.pack(torch.zeros(1, 1), torch.tensor([[0]]))[0]
    assert torch.equal(connector.rows[few], table[torch.tensor([[10, SEPARATOR] + [FILLER] * 4])])


def test_what_is_there_joins_the_names_and_the_likeliest_stays_the_first(connector: NamesConnector) -> None:
    logits = torch.tensor([[0.0, 3, 2, 1, 0, 0, 0]])
    there = torch.tensor([[0.0, 0, 0, 0.99, 0.7, 0, 0]])
    weights, order = connector.top_names(logits, there)
    assert order[0, :3].tolist() == [1, 3, 4]
    assert torch.allclose(weights[0, :3], torch.tensor([0.99, 0.99, 0.7]).log())  # nothing is surer than the first
    assert torch.equal(connector.top_names(logits, torch.zeros(1, 7))[1], connector.top_names(logits)[1])


def test_forward_gives_words_and_dense_slots_and_gradients_only_where_promised(connector: NamesConnector) -> None:
    features = torch.randn(2, 2, 8)
    found = connector(features)
    assert found.shape == (2, CONFIG.tokens(2), 4) == (2, 8, 4)
    summary = connector.summary(features)
    dense = connector.dense(summary).unflatten(-1, (2, 4))
    assert torch.allclose(found[:, 6:], dense, atol=1e-6)
    found.sum().backward()
    assert connector.sentence.weight.grad is None and connector.recall.weight.grad is None
    assert connector.dense[0].weight.grad.abs().sum() > 0 and connector.confidence.grad.abs().sum() > 0


def test_names_that_do_not_fit_the_config_are_refused(connector: NamesConnector) -> None:
    with pytest.raises(ConfigError, match="expected 7 names of at most 3 tokens, found 6 of at most 3"):
        connector.set_names(NAMES[:-1], SEPARATOR, FILLER, torch.randn(20, 4))
    with pytest.raises(ConfigError, match="found 7 of at most 4"):
        connector.set_names([*NAMES[:-1], [1, 2, 3, 4]], SEPARATOR, FILLER, torch.randn(20, 4))


def test_a_colour_head_names_the_likeliest_colour_in_the_last_slot(connector: NamesConnector) -> None:
    torch.manual_seed(2)
    made = replace(CONFIG, colours=2, top=7).build(in_width=8, out_width=4).eval()
    made.load_state_dict({**connector.state_dict(), "colour.weight": torch.randn(2, 11), "colour.bias": torch.zeros(2)})
    table = torch.randn(30, 4)
    with pytest.raises(ConfigError, match="2 colours, found 0"):
        made.set_names(NAMES, SEPARATOR, FILLER, table)
    made.set_names(NAMES, SEPARATOR, FILLER, table, [20, 21])
    plain = replace(CONFIG, word_slots=5, top=7).build(in_width=8, out_width=4).eval()
    plain.load_state_dict(connector.state_dict())
    plain.set_names(NAMES, SEPARATOR, FILLER, table)
    features = torch.randn(6, 2, 8)
    with torch.no_grad():
        found, expected = made(features), plain(features)
        chosen = made.colour(made.summary(features)).argmax(-1)
    assert found.shape == (6, 8, 4)
    assert torch.allclose(found[:, :5], expected[:, :5], atol=1e-6) and torch.allclose(found[:, 6:], expected[:, 5:])
    assert torch.equal(found[:, 5], table[20 + chosen])


def test_names_are_as_exact_in_a_run_of_lower_precision(connector: NamesConnector) -> None:
    features = 3 * torch.randn(16, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        lower = connector(features)
    words = CONFIG.word_slots
    assert torch.allclose(lower[:, :words].float(), connector(features)[:, :words], atol=0.05)


def test_the_summary_is_dropped_in_training_alone(connector: NamesConnector) -> None:
    some = replace(CONFIG, summary_dropout=0.5).build(in_width=8, out_width=4)
    some.load_state_dict(connector.state_dict())
    some.set_names(NAMES, SEPARATOR, FILLER, torch.randn(20, 4))
    features, words = torch.randn(3, 2, 8), CONFIG.word_slots
    dense = [some.train(training)(features)[:, words:] for training in (False, True, False)]
    assert torch.equal(dense[0], dense[2]) and not torch.allclose(dense[0], dense[1])
    assert torch.allclose(dense[0], connector(features)[:, words:])
