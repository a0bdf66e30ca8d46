"""Score biases by head, and norms by head."""

import pytest
import torch

from polymodal.nn.attention import attend
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import HeadLayerNormConfig


@pytest.mark.parametrize(("queries", "groups"), [(5, 1), (5, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("padded", [False, True])
def test_a_biased_mask_adds_the_bias_to_the_scores_and_hides_the_same_keys(queries, groups, padded):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, queries, 8, generator=generator)
    k, v = (torch.randn(2, 4 // groups, 5, 8, generator=generator) for _ in range(2))
    bias = torch.randn(2, 4, 1, 5, generator=generator)
    mask = torch.ones(2, 5)
    if padded:
        mask[1, :2] = 0
    spec = MaskSpec(attention_mask=mask if padded else None)
    found = attend(q, k, v, spec.prepare(queries, 5).biased(bias, queries))
    scores = q @ k.repeat_interleave(groups, 1).transpose(-1, -2) / 8**0.5 + bias
    seen = torch.ones(5, 5).tril()[-queries:].bool()[None, None] & mask.bool()[:, None, None]
    weights = scores.masked_fill(~seen, -1e9).softmax(-1)
    expected = weights @ v.repeat_interleave(groups, 1)
    rows = seen.any(-1)[:, 0]  # rows of padding see nothing
    torch.testing.assert_close(found.transpose(1, 2)[rows], expected.transpose(1, 2)[rows], atol=1e-5, rtol=1e-5)


def test_head_layer_norm_uses_the_weights_of_the_head_s_group():
    norm = HeadLayerNormConfig(heads=4, groups=2, eps=1e-5).build(6)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(2, 6))
        norm.bias.copy_(torch.randn(2, 6))
    x = torch.randn(3, 5, 4, 6)
    for head in range(4):
        expected = torch.nn.functional.layer_norm(x[:, :, head], (6,), norm.weight[head // 2], norm.bias[head // 2])
        torch.testing.assert_close(norm(x)[:, :, head], expected)
