"""CLIP's image encoder against transformers and a fused-attention reference; all parameters random."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from polymodal.encoders import clip_vit as clip
from polymodal.encoders.clip_vit import HF_FEATURE_KEYS, HF_KEYS, OPENAI_FEATURE_KEYS, OPENAI_KEYS, clip_vit
from polymodal.encoders.vit import ViT, ViTConfig
from polymodal.weights.keytable import KeyTable

TOLERANCE = 1e-4  # float32, absolute, on features of order one


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Random values for every parameter: biases, norms, class token and positions too."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        is_norm = value.dim() == 1 and name.endswith("weight")
        value.copy_(1 + 0.3 * noise if is_norm else noise * (0.3 if value.dim() < 2 else 0.2))


def tiny(activation: str = "quick_gelu", **changes: object) -> ViTConfig:
    config = clip_vit(
        width=32, depth=3, patch_size=7, embed_width=20, image_size=37, heads=4, ffn_width=48, activation=activation
    )
    return replace(config, **changes)  # 37 / 7: five patches a side, an odd count


def loaded(config: ViTConfig, table: KeyTable, source: dict[str, Tensor]) -> ViT:
    model = config.build().eval()
    model.load_state_dict(dict(table.apply(source, model)))
    return model


def hf_clip(activation: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=37,
        patch_size=7,
        projection_dim=20,
        hidden_act=activation,
    )
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    randomise(model, seed=0)
    return model


def on_disk(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)  # type: ignore[operator]
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_equals_transformers(tmp_path: Path, activation: str) -> None:
    theirs = hf_clip(activation)
    ours = loaded(tiny(activation), HF_KEYS, on_disk(theirs, tmp_path))
    pixels = torch.randn(2, 3, 37, 37)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        pooled = theirs.vision_model(pixels).pooler_output  # type: ignore[operator, union-attr]
        features, states = ours(pixels), ours.hidden_states(pixels)
        torch.testing.assert_close(features, expected.last_hidden_state, atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(ours.pool(features), pooled, atol=TOLERANCE, rtol=0)
        projected = ours.project(ours.pool(features))
    torch.testing.assert_close(projected, expected.image_embeds, atol=TOLERANCE, rtol=0)
    assert expected.image_embeds.std() > 0.3
    for state, wanted in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(49, 49), (28, 63), (22, 22)])
def test_resized_positions_equal_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    theirs = hf_clip("quick_gelu")
    ours = loaded(tiny(resize_positions=True), HF_KEYS, on_disk(theirs, tmp_path))
    pixels = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(ours(pixels), expected, atol=TOLERANCE, rtol=0)


def test_features_for_language_models_need_no_head(tmp_path: Path) -> None:
    theirs = hf_clip("quick_gelu")
    config = tiny(head=None, layer=-2, keep_class=False)
    ours = loaded(config, HF_FEATURE_KEYS, on_disk(theirs, tmp_path))
    pixels = torch.randn(2, 3, 37, 37)
    with torch.no_grad():
        wanted = theirs(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        features = ours(pixels)
    assert features.shape == (2, config.tokens, 32) == (2, 25, 32)
    torch.testing.assert_close(features, wanted, atol=TOLERANCE, rtol=0)


class FusedBlock(nn.Module):
    """A block as the official file lays it out, on torch's own multi-head attention."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, ffn_width), "c_proj": nn.Linear(ffn_width, width)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class FusedTower(nn.Module):
    """The image tower in the official layout, names included."""

    def __init__(self, width: int, depth: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 7, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(26, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = nn.ModuleList(FusedBlock(width, heads, ffn_width) for _ in range(depth))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.proj = nn.Parameter(torch.zeros(width, 20))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer["resblocks"]:  # type: ignore[union-attr]
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


def test_official_layout_equals_a_fused_reference_both_ways() -> None:
    theirs = FusedTower(width=32, depth=3, heads=4, ffn_width=48).eval()
    randomise(theirs, seed=1)
    source = {f"visual.{name}": value for name, value in theirs.state_dict().items()}
    ours = loaded(tiny(), OPENAI_KEYS, source)
    pixels = torch.randn(2, 3, 37, 37)
    with torch.no_grad():
        embedding, expected = ours.project(ours.pool(ours(pixels))), theirs(pixels)
    assert expected.std() > 0.3
    torch.testing.assert_close(embedding, expected, atol=TOLERANCE, rtol=0)
    back = dict(OPENAI_KEYS.inverse().apply(ours.state_dict()))
    assert back.keys() == source.keys()
    assert all(torch.equal(value, source[name]) for name, value in back.items())
    headless = tiny(head=None).build()
    assert OPENAI_FEATURE_KEYS.check(source, headless.state_dict()).problems == ()


@pytest.mark.parametrize(
    ("config", "hidden", "embed", "tokens", "parameters"),
    [
        # parameters: the whole published model minus its text tower, counted from the shapes
        (clip.VIT_B_32, 768, 512, 50, 87_849_216),
        (clip.VIT_B_16, 768, 512, 197, 86_192_640),
        (clip.VIT_L_14, 1024, 768, 257, 303_966_208),
        (clip.VIT_L_14_336, 1024, 768, 577, 304_293_888),
    ],
)
def test_published_sizes(config: ViTConfig, hidden: int, embed: int, tokens: int, parameters: int) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        ours = config.build()
        theirs = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=hidden,
                intermediate_size=4 * hidden,
                num_hidden_layers=len(config.blocks),
                num_attention_heads=hidden // 64,
                image_size=config.image_size,
                patch_size=config.patch_size,
                projection_dim=embed,
            )
        )
    count = sum(p.numel() for p in ours.parameters())
    assert config.tokens == tokens and count == parameters == sum(p.numel() for p in theirs.parameters())
    dict(HF_KEYS.apply(theirs.state_dict(), ours))


def test_big_g_size() -> None:
    with torch.device("meta"):
        model = clip.VIT_BIG_G_14.build()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(millions, 2) == 1844.91  # the image side as OpenCLIP's model profile lists it
