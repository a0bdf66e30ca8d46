"""PaLM against Cohere of `transformers`, the same architecture: all parameters random, float32, error <= 1e-4."""

import pytest
import torch
from decoder_parity import IDS, MASK, TOLERANCE, build_like, logits, stepwise, tiny

transformers = pytest.importorskip("transformers")

from polymodal.backbones import palm  # noqa: E402
from polymodal.check.randomise import fill  # noqa: E402
from polymodal.errors import ConfigError  # noqa: E402

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 20, "intermediate_size": 72,
         "vocab_size": 61, "layer_norm_eps": 1e-4}  # fmt: skip


@pytest.mark.parametrize("change", [{}, {"num_attention_heads": 1, "head_dim": 6, "hidden_size": 33}])
@torch.no_grad()
def test_equals_cohere(change: dict[str, int]) -> None:
    sizes = {**SIZES, **change}
    options = transformers.CohereConfig(**sizes, num_key_value_heads=1, logit_scale=sizes["hidden_size"] ** -0.5,
                                        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})  # fmt: skip
    theirs = tiny(transformers.CohereForCausalLM, options)
    fill(theirs)
    ours = build_like(palm.parse_config(sizes), palm.keys(), dict(theirs.state_dict()))
    expected, real = theirs(input_ids=IDS, attention_mask=MASK).logits, MASK.bool()
    torch.testing.assert_close(logits(ours, IDS, MASK)[real], expected[real], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(stepwise(ours, IDS, [5, 1, 1, 1], MASK)[real], expected[real], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("sizes", "billions"), [((4096, 32, 16), 8.63), ((8192, 64, 32), 62.50),
                                                 ((18432, 118, 48), 540.36)])  # fmt: skip
def test_published_sizes(sizes: tuple[int, int, int], billions: float) -> None:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
    with torch.device("meta"):
        decoder = palm.parse_config(dict(zip(names, sizes, strict=True))).build()
    assert round(sum(each.numel() for each in decoder.parameters()) / 1e9, 2) == billions


@torch.no_grad()
def test_fresh_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    decoder = palm.parse_config({**SIZES, "hidden_size": 400, "num_hidden_layers": 1}).build()
    palm.initialise(decoder)
    assert abs(float(decoder.embed_tokens.weight.std()) - 1) < 0.02
    assert abs(float(decoder.blocks[0].mlp.up_proj.weight.std()) * 20 - 1) < 0.02
    hidden = decoder(decoder.embed(IDS), torch.arange(8)[None])
    assert 0.3 < float(decoder.head(hidden).abs().mean()) < 2  # the logits' factor keeps them near one


def test_options_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"palm: \['use_qk_norm'\] is not supported; it takes hidden_size"):
        palm.parse_config({"use_qk_norm": True})
