"""Int8 weights of a language model's head keep its bias."""

import torch

from polymodal.backbones import hf_text
from polymodal.nn.quantise import Int8Linear


def test_the_bias_of_a_head_is_kept() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    decoder = hf_text.parse_config({"model_type": "phi", "vocab_size": 50, **sizes}).config.build()
    with torch.no_grad():
        decoder.lm_head.bias.fill_(7.0)
        hidden = torch.randn(2, 32)
        exact = decoder.head(hidden)
        decoder.quantise()
        assert isinstance(decoder.lm_head, Int8Linear)
        assert (decoder.head(hidden) - exact).abs().max() < 0.1
