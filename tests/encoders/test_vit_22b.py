"""The large ViTs: the block's formula, published sizes, what is refused; `polymodal check palm-e` compares timm's."""

import pytest
import torch
import torch.nn.functional as F

from polymodal.check.randomise import fill
from polymodal.encoders import vit_22b
from polymodal.errors import ConfigError

SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
         "image_size": 28, "patch_size": 7}  # fmt: skip


@torch.no_grad()
def test_attention_and_mlp_read_one_norm_that_does_not_centre() -> None:
    block = vit_22b.parse_config(SMALL).build().blocks[0]
    fill(block)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)) + 0.5

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    seen, attn, mlp = norm(x, block.attn_norm.weight), block.attn, block.mlp
    q, k, v = (
        (seen @ proj.weight.T).view(2, 5, 3, 8).transpose(1, 2) for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    scores = norm(q, attn.q_norm.weight) @ norm(k, attn.k_norm.weight).transpose(-1, -2) * 8**-0.5
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ attn.o_proj.weight.T + attn.o_proj.bias
    inner = F.gelu(seen @ mlp.up_proj.weight.T + mlp.up_proj.bias, approximate="tanh")
    expected = x + mixed + inner @ mlp.down_proj.weight.T + mlp.down_proj.bias
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=0)


def test_published_sizes() -> None:
    counts = {}
    for kind in vit_22b.SIZES:
        with torch.device("meta"):
            encoder = vit_22b.parse_config({"model_type": kind}).build()
        counts[kind] = sum(each.numel() for each in encoder.parameters())
        assert encoder.config.tokens == 256
    # PaLI's count of ViT-e holds an attention pooling of one block and 29,593 classes.
    width, ffn = 1792, 15360
    pooling = 4 * (width**2 + width) + 2 * width * ffn + ffn + width + 3 * width
    assert round((counts["vit"] + pooling + 29_593 * (width + 1)) / 1e6) == 3926
    # ViT-22B's paper counts the matrices of its blocks.
    assert 48 * 12 * 6144**2 // 10**6 == 21_743 and counts["vit-22b"] == 21_750_546_432


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(ConfigError, match="model_type: expected vit or vit-22b, found 'dino'"):
        vit_22b.parse_config({"model_type": "dino"})
    with pytest.raises(ConfigError, match=r"\['hidden_act'\] is not supported"):
        vit_22b.parse_config({"hidden_act": "relu"})
