"""HuBERT against transformers at every layer, in both spellings of names; units as scikit-learn would choose them."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.encoders import hubert
from polymodal.errors import ConfigError, MediaError
from polymodal.weights.load import load_module

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40,
         "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}  # fmt: skip
FAIRSEQ = {"encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
           "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
           "encoder.pos_conv_embed.conv": "encoder.pos_conv.0", "feature_projection.projection": "post_extract_proj",
           "feature_projection.layer_norm": "layer_norm", ".conv.": ".0.", "attention.out_proj": "self_attn.out_proj",
           "attention.": "self_attn.", "feed_forward.intermediate_dense": "fc1", "feed_forward.output_dense": "fc2",
           "masked_spec_embed": "mask_emb"}  # fmt: skip


def official(name: str) -> str:
    """A name of the library as fairseq has it."""
    inside = name.startswith("encoder.layers.")
    for theirs, ours in FAIRSEQ.items():
        if theirs == "attention." and "self_attn" in name:
            continue
        name = name.replace(theirs, ours)
    if inside and ".final_layer_norm" not in name:
        name = name.replace(".layer_norm.", ".self_attn_layer_norm.")
    return name.replace("conv_layers.0.layer_norm", "conv_layers.0.2")


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_every_layer_is_the_library_s(layer: int) -> None:
    transformers = pytest.importorskip("transformers")
    oracle = transformers.HubertModel(transformers.HubertConfig(**SMALL)).eval()
    randomise.fill(oracle)
    samples = randomise.values("samples", (2, 3000))
    with torch.no_grad():
        wanted = oracle(samples, output_hidden_states=True).hidden_states[layer]
    config = hubert.parse_config(SMALL, layer)
    names = oracle.state_dict()
    respelled = {official(name): weight for name, weight in names.items()} | {"final_proj.weight": torch.zeros(2, 2)}
    for tensors, tables in ((names, hubert.hf_keys(config)), (respelled, (hubert.fairseq_keys(config),))):
        ours = load_module(config.build, tensors, tables).eval()
        with torch.no_grad():
            assert (ours(samples) - wanted).abs().max() < 1e-5


def test_units_are_the_nearest_centroids() -> None:
    features, centroids = randomise.values("features", (50, 6)), randomise.values("centroids", (9, 6))
    units = hubert.units_of(features, centroids)
    assert torch.equal(units, torch.cdist(features, centroids).argmin(-1))
    assert hubert.merged([3, 3, 1, 3, 3, 3, 2]) == [3, 1, 3, 2] and hubert.merged([]) == []


def test_one_feature_needs_400_samples() -> None:
    encoder = hubert.parse_config(SMALL).build()
    assert [encoder(torch.zeros(1, count)).shape[1] for count in (400, 719, 720)] == [1, 1, 2]
    with pytest.raises(MediaError, match="the recording has 399 samples at 16 kHz; one unit needs 400"):
        encoder(torch.zeros(1, 399))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"do_stable_layer_norm": True}, "do_stable_layer_norm: expected False"),
        ({"feat_extract_norm": "batch"}, "expected 'group' or 'layer', found 'batch'"),
        ({"conv_stride": [5, 2]}, "need one entry for each convolution"),
    ],
)
def test_what_is_not_supported_is_named(changes, told) -> None:
    with pytest.raises(ConfigError, match=told):
        hubert.parse_config({**SMALL, **changes})
    with pytest.raises(ConfigError, match=r"layer 4 is asked for, the model has 1\.\.3"):
        hubert.parse_config(SMALL, 4)
