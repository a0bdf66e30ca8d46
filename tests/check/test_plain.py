"""The parts in plain torch that oracles are made of, against `transformers`: all weights random, every name listed."""

import pytest
import torch

from polymodal.check import plain, plain_codec, randomise

TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 70}  # fmt: skip
VISION = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 7}  # fmt: skip
CODEC = {"embed_dim": 12, "num_embeddings": 24, "latent_channels": 20, "resolution": 16, "base_channels": 32,
         "channel_multiplier": [1, 2, 2], "num_res_blocks": 1, "attn_type": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("transformers")
    from polymodal.check import library

    return library


def both(library, model, config, shapes):
    """The library's model and the same random weights by our list of names, which must be the library's."""
    with library.quiet() as transformers:
        oracle = library.built(transformers, model, config(transformers)).eval()
        names = {name: tuple(x.shape) for name, x in library.names_on_disk(oracle).items()}
    assert names == {name.removeprefix("vision_model."): shape for name, shape in shapes.items()}
    weights = {name: x.detach() for name, x in library.names_on_disk(oracle).items()}
    return oracle, {name: weights[name.removeprefix("vision_model.")] for name in shapes}


def test_llama(library):
    oracle, weights = both(library, "LlamaForCausalLM", lambda t: t.LlamaConfig(**TEXT), plain.llama_shapes(TEXT))
    ids = randomise.ids("words", (19,), 0, 70)
    with torch.no_grad():
        found = plain.llama(weights, TEXT, weights["model.embed_tokens.weight"][ids])
        assert (found - library.logits(oracle, {"input_ids": ids[None]})[0]).abs().max() < 1e-4


def test_clip(library):
    shapes = plain.clip_shapes(VISION)
    oracle, weights = both(library, "CLIPVisionModel", lambda t: t.CLIPVisionConfig(**VISION), shapes)
    pixels = randomise.values("pixels", (2, 3, 28, 28))
    with torch.no_grad():
        seen = library.layer(oracle, -2, pixels)[:, 1:]
        assert (plain.clip(weights, VISION, pixels, 2) - seen).abs().max() < 1e-4


def test_codec(library):
    def config(transformers):
        return transformers.ChameleonVQVAEConfig(**CODEC)

    oracle, weights = both(library, "ChameleonVQVAE", config, plain_codec.codec_shapes(CODEC))
    pixels = randomise.values("pixels", (2, 3, 16, 16))
    with torch.no_grad():
        codes = plain_codec.codes(weights, CODEC, pixels)
        assert len(codes.unique()) > 4
        latents = library.part(oracle, "quant_conv")(library.part(oracle, "encoder")(pixels))
        far = torch.cdist(latents.movedim(1, -1).flatten(0, 2), library.part(oracle, "quantize.embedding").weight)
        assert torch.equal(codes.flatten(), far.argmin(-1))


def test_what_sees_nothing_gets_zeros():
    q, k, v = (randomise.values(name, (2, 3, 8)) for name in "qkv")
    out = plain.attention(q, k, v, torch.tensor([[True, False, False], [False] * 3, [True] * 3]))
    assert not out[1].any() and torch.allclose(out[0], v[:, 0].flatten()) and out[2].any()
