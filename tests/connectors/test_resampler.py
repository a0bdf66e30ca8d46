"""The Perceiver resampler against flamingo-pytorch and transformers' IDEFICS, all parameters random."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.connectors.resampler import IDEFICS_KEYS, OPEN_FLAMINGO_KEYS, Resampler, ResamplerConfig
from polymodal.errors import ConfigError
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

TOLERANCE = 1e-4  # float32, absolute, on outputs of order one


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(noise * (0.3 if value.dim() > 1 else 1.0))


def loaded(config: ResamplerConfig, table: KeyTable, source: dict[str, Tensor], width: int) -> Resampler:
    model = config.build(width, width).eval()
    model.load_state_dict(dict(table.apply(source, model)))
    return model


def test_equals_flamingo_pytorch() -> None:
    flamingo = pytest.importorskip("flamingo_pytorch")
    theirs = flamingo.PerceiverResampler(dim=24, depth=3, dim_head=8, heads=4, num_latents=5, num_media_embeds=3).eval()
    randomise(theirs, seed=0)
    source = dict(theirs.state_dict())
    source["media_time_embs"] = source.pop("media_pos_emb")  # its only name that OpenFlamingo spells otherwise
    config = ResamplerConfig(latents=5, depth=3, heads=4, head_dim=8, max_media=3)
    ours = loaded(config, OPEN_FLAMINGO_KEYS, source, width=24)
    features = torch.randn(2, 3, 7, 24)  # two sequences of three items
    with torch.no_grad():
        expected = theirs(features).flatten(0, 1)
        result = ours(features.flatten(0, 1), media_index=torch.tensor([0, 1, 2, 0, 1, 2]))
    assert expected.std() > 0.3
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)
    back = dict(OPEN_FLAMINGO_KEYS.inverse().apply(ours.state_dict()))
    assert back.keys() == source.keys()
    assert all(torch.equal(value, source[name]) for name, value in back.items())


@pytest.mark.parametrize("head_norms", [True, False])
def test_equals_idefics(head_norms: bool) -> None:
    perceiver = pytest.importorskip("transformers.models.idefics.perceiver")
    config = SimpleNamespace(
        perceiver_config=SimpleNamespace(qk_layer_norms_perceiver=head_norms),
        vision_config=SimpleNamespace(embed_dim=24),
    )
    theirs = perceiver.IdeficsPerceiverResampler(config, 24, depth=2, n_heads=4, head_dim=8, n_latents=5).eval()
    randomise(theirs, seed=1)
    norm = LayerNormConfig() if head_norms else None
    ours = loaded(
        ResamplerConfig(latents=5, depth=2, heads=4, head_dim=8, activation="relu", q_norm=norm, k_norm=norm),
        IDEFICS_KEYS,
        theirs.state_dict(),
        width=24,
    )
    features = torch.randn(3, 7, 24)
    with torch.no_grad():
        expected, result = theirs(features), ours(features)
    assert expected.std() > 0.3
    torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


def test_open_flamingo_size() -> None:
    with torch.device("meta"):
        model = ResamplerConfig().build(1024, 1024)
    assert sum(p.numel() for p in model.parameters()) == 63_019_008


def test_frames_get_their_positions() -> None:
    config = ResamplerConfig(latents=4, depth=1, heads=2, head_dim=4, max_frames=3)
    model = config.build(8, 8)
    randomise(model, seed=2)
    plain = ResamplerConfig(latents=4, depth=1, heads=2, head_dim=4).build(8, 8)
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if n != "frame_positions"})
    features = torch.randn(2, 2, 5, 8)
    by_hand = torch.cat([features[:, i] + model.frame_positions[i] for i in range(2)], dim=1)
    torch.testing.assert_close(model(features), plain(by_hand), atol=1e-5, rtol=0)
    # order matters, so the positions do
    assert (model(features) - model(features.flip(1))).abs().max() > 1e-2


def test_number_of_features_is_free_and_order_is_ignored() -> None:
    model = ResamplerConfig(latents=4, depth=2, heads=2, head_dim=4).build(8, 8)
    randomise(model, seed=3)
    features = torch.randn(2, 11, 8)
    torch.testing.assert_close(model(features), model(features.flip(1)), atol=1e-5, rtol=0)
    assert model(features[:, :1]).shape == (2, 4, 8)


def test_project_changes_the_width() -> None:
    config = ResamplerConfig(latents=4, depth=1, heads=2, head_dim=4, project=LinearConnectorConfig())
    assert config.build(8, 12)(torch.randn(2, 5, 8)).shape == (2, 4, 12)


def test_refusals_name_the_numbers() -> None:
    with pytest.raises(ConfigError, match="expected out_width 8, found 12"):
        ResamplerConfig().build(8, 12)
    small = ResamplerConfig(latents=2, depth=1, heads=1, head_dim=4)
    with pytest.raises(ConfigError, match=r"must be \[N, S, D\], found \[1, 1, 5, 8\]"):
        small.build(8, 8)(torch.zeros(1, 1, 5, 8))
    with pytest.raises(ConfigError, match="media_index needs max_media in the config"):
        small.build(8, 8)(torch.zeros(1, 5, 8), media_index=torch.tensor([0]))
    timed = ResamplerConfig(latents=2, depth=1, heads=1, head_dim=4, max_frames=2, max_media=1).build(8, 8)
    with pytest.raises(ConfigError, match="at most 2 frames, found 3"):
        timed(torch.zeros(1, 3, 5, 8), media_index=torch.tensor([0]))
    with pytest.raises(ConfigError, match="media_index is missing"):
        timed(torch.zeros(1, 2, 5, 8))
    with pytest.raises(ConfigError, match="at most 1 items per sequence, found 2"):
        timed(torch.zeros(2, 2, 5, 8), media_index=torch.tensor([0, 1]))
