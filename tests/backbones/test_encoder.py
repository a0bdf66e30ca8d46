"""The BERT-like encoder against transformers, all parameters randomised, float32, max abs error <= 1e-4."""

import pytest
import torch

from polymodal.backbones.encoder import BERT_KEYS, bert

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4


@pytest.mark.parametrize(("width", "depth", "heads", "ffn"), [(24, 3, 4, 40), (48, 1, 6, 96)])
def test_hidden_states_equal_the_oracle_for_unequal_rows(width: int, depth: int, heads: int, ffn: int) -> None:
    torch.manual_seed(width)
    config = transformers.BertConfig(
        vocab_size=99,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=512,
    )
    oracle = transformers.BertModel(config).eval()
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = bert(width, depth, heads, ffn, vocab_size=99).build().eval()
    ours.load_state_dict(dict(BERT_KEYS.apply(oracle.state_dict(), ours)))
    ids = torch.randint(0, 99, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[2, 1:] = 0
    with torch.no_grad():
        expected = oracle(input_ids=ids, attention_mask=mask).last_hidden_state
        found = ours(ids, mask)
        alone = ours.sentence(ids[1:2, :6], mask[1:2, :6])
        together = ours.sentence(ids, mask)[1:2]
    real = mask.bool()
    assert (found - expected)[real].abs().max() <= TOLERANCE
    assert (alone - together).abs().max() <= TOLERANCE
    assert together.norm().item() == pytest.approx(1, abs=1e-5)
