"""ViT against transformers, a hand-written JAX-layout forward, and torch's bicubic; all parameters random."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from polymodal.encoders import google_vit as google
from polymodal.encoders.google_vit import HF_BASE_KEYS, HF_KEYS, google_vit, jax_keys, with_classes
from polymodal.encoders.vit import ViT, ViTConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable

TOLERANCE = 1e-4  # float32, absolute, on features of order one


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Random values for every parameter: biases, norms, class token and positions too."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        is_norm = value.dim() == 1 and name.endswith("norm.weight")
        value.copy_(1 + 0.3 * noise if is_norm else noise * (0.3 if value.dim() < 2 else 0.2))


def loaded(config: ViTConfig, table: KeyTable, source: dict[str, Tensor]) -> ViT:
    model = config.build().eval()
    model.load_state_dict(dict(table.apply(source, model)))
    return model


def tiny(**changes: object) -> ViTConfig:
    return replace(google_vit(width=24, depth=3, heads=2, patch_size=7, image_size=30), **changes)


def hf_config(**changes: int) -> object:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
    return transformers.ViTConfig(**{**sizes, "image_size": 30, "patch_size": 7, "num_labels": 5, **changes})


def on_disk(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    model.save_pretrained(folder)  # type: ignore[operator]
    return load_file(folder / "model.safetensors")


def test_bare_encoder_equals_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTModel(hf_config()).eval()
    randomise(theirs, seed=0)
    config = replace(with_classes(tiny(), 1), head=google.ClassHeadConfig(hidden_width=24))
    ours = loaded(config, HF_BASE_KEYS, on_disk(theirs, tmp_path))
    pixels = torch.randn(2, 3, 30, 30)  # 30 / 7: the last two pixels are lost, 4 x 4 patches
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        features, states = ours(pixels), ours.hidden_states(pixels)
        pooled = ours.pool(features)
    assert features.shape == (2, config.tokens, 24) and expected.last_hidden_state.std() > 0.3
    torch.testing.assert_close(features, expected.last_hidden_state, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=TOLERANCE, rtol=0)
    assert len(states) == len(expected.hidden_states) == 4
    for state, wanted in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(30, 30), (56, 56), (35, 63), (28, 28), (20, 41)])
def test_classifier_and_resized_positions_equal_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTForImageClassification(hf_config()).eval()
    randomise(theirs, seed=1)
    config = with_classes(tiny(resize_positions=True), 5)
    ours = loaded(config, HF_KEYS, on_disk(theirs, tmp_path))
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = theirs(pixels, interpolate_pos_encoding=True).logits
        features = ours(pixels)
        logits = ours.project(ours.pool(features))
    assert features.shape[1] == (size[0] // 7) * (size[1] // 7) + 1
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)


def test_positions_are_resized_as_torch_bicubic() -> None:
    model = tiny(resize_positions=True).build()
    randomise(model, seed=2)
    grid = model.positions[1:].detach().T.reshape(1, 24, 4, 4)
    for height, width in ((3, 9), (5, 5), (1, 2)):
        table = model.positions_for(height, width)
        wanted = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        torch.testing.assert_close(table[1:], wanted[0].flatten(1).T, atol=1e-6, rtol=0)
        assert torch.equal(table[0], model.positions[0])
    assert model.positions_for(4, 4) is model.positions


@pytest.mark.parametrize(("layer", "keep"), [(-1, True), (-1, False), (-2, False), (-3, True), (0, True), (2, False)])
def test_layer_and_class_token_choice(layer: int, keep: bool) -> None:
    model = tiny(layer=layer, keep_class=keep).build().eval()
    randomise(model, seed=3)
    pixels = torch.randn(2, 3, 30, 30)
    with torch.no_grad():
        wanted = model.hidden_states(pixels)[layer]
        if layer == -1:
            wanted = model.final_norm(wanted)
        features = model(pixels)
    assert torch.equal(features, wanted if keep else wanted[:, 1:])
    assert features.shape[1] == model.config.tokens


def test_unused_blocks_are_not_run() -> None:
    model = tiny(layer=-2, keep_class=False).build()
    with torch.no_grad():
        for parameter in model.blocks[-1].parameters():
            parameter.fill_(float("nan"))
    assert model(torch.randn(1, 3, 30, 30)).isfinite().all()


def test_without_class_token_and_gradients() -> None:
    model = tiny(class_token=False).build()
    randomise(model, seed=4)
    features = model(torch.randn(2, 3, 30, 30))
    assert features.shape == (2, 16, 24) and model.config.tokens == 16
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "classes", "pre_logits", "parameters"),
    [
        (google.VIT_B_16, 1000, False, 86_567_656),
        (google.VIT_L_16, 1000, False, 304_326_632),
        (google.VIT_H_14, 1000, False, 632_045_800),
        (google.VIT_B_16, 21_843, False, 102_595_923),
        (google.VIT_B_16, 21_843, True, 102_595_923 + 768 * 768 + 768),
    ],
)
def test_published_sizes(config: ViTConfig, classes: int, pre_logits: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = with_classes(config, classes, pre_logits=pre_logits).build()
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_refusals_name_the_numbers() -> None:
    model = tiny().build()
    with pytest.raises(ConfigError, match="expected images of 30 x 30 pixels, found 31 x 30"):
        model(torch.zeros(1, 3, 31, 30))
    with pytest.raises(ConfigError, match=r"\[N, 3, H, W\], found \[1, 1, 30, 30\]"):
        model(torch.zeros(1, 1, 30, 30))
    with pytest.raises(ConfigError, match="layer -5 does not exist with 3 blocks"):
        tiny(layer=-5)
    with pytest.raises(ConfigError, match="smaller than one patch"):
        tiny(image_size=6)
    with pytest.raises(ConfigError, match="needs the class token of the last layer"):
        with_classes(tiny(keep_class=False), 2).build().pool(torch.zeros(1, 16, 24))
    with pytest.raises(ConfigError, match="needs a head"):
        model.pool(torch.zeros(1, 17, 24))


def jax_forward(source: dict[str, Tensor], pixels: Tensor, depth: int, patch: int) -> Tensor:
    """Logits computed straight from tensors in the layout of the official .npz files."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], source[f"{name}/scale"], source[f"{name}/bias"], 1e-6)

    tiles = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # n c h w y x
    x = torch.einsum("nchwyx,yxcd->nhwd", tiles, source["embedding/kernel"]) + source["embedding/bias"]
    x = x.flatten(1, 2)
    x = torch.cat((source["cls"].expand(x.shape[0], -1, -1), x), 1)
    x = x + source["Transformer/posembed_input/pos_embedding"]
    for i in range(depth):
        name = f"Transformer/encoderblock_{i}"
        part, y = f"{name}/MultiHeadDotProductAttention_1", norm(x, f"{name}/LayerNorm_0")
        q, k, v = (
            torch.einsum("nsd,dhe->nhse", y, source[f"{part}/{kind}/kernel"]) + source[f"{part}/{kind}/bias"][:, None]
            for kind in ("query", "key", "value")
        )
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + torch.einsum("nhse,hed->nsd", weights @ v, source[f"{part}/out/kernel"]) + source[f"{part}/out/bias"]
        mlp, y = f"{name}/MlpBlock_3", norm(x, f"{name}/LayerNorm_2")
        y = F.gelu(y @ source[f"{mlp}/Dense_0/kernel"] + source[f"{mlp}/Dense_0/bias"], approximate="tanh")
        x = x + y @ source[f"{mlp}/Dense_1/kernel"] + source[f"{mlp}/Dense_1/bias"]
    x = norm(x, "Transformer/encoder_norm")[:, 0]
    x = torch.tanh(x @ source["pre_logits/kernel"] + source["pre_logits/bias"])
    return x @ source["head/kernel"] + source["head/bias"]


def jax_source(depth: int, width: int, heads: int, patch: int, tokens: int) -> dict[str, Tensor]:
    head = (heads, width // heads)
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, width),
        "Transformer/posembed_input/pos_embedding": (1, tokens, width),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
    }

    def dense(name: str, kernel: tuple[int, ...], bias: tuple[int, ...]) -> None:
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = kernel, bias

    dense("embedding", (patch, patch, 3, width), (width,))
    dense("pre_logits", (width, width), (width,))
    dense("head", (width, 5), (5,))
    for i in range(depth):
        name = f"Transformer/encoderblock_{i}"
        for kind in ("query", "key", "value"):
            dense(f"{name}/MultiHeadDotProductAttention_1/{kind}", (width, *head), head)
        dense(f"{name}/MultiHeadDotProductAttention_1/out", (*head, width), (width,))
        dense(f"{name}/MlpBlock_3/Dense_0", (width, 4 * width), (4 * width,))
        dense(f"{name}/MlpBlock_3/Dense_1", (4 * width, width), (width,))
        for kind in ("LayerNorm_0", "LayerNorm_2"):
            shapes[f"{name}/{kind}/scale"] = shapes[f"{name}/{kind}/bias"] = (width,)
    generator = torch.Generator().manual_seed(5)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_npz_layout_equals_a_forward_in_that_layout() -> None:
    source = jax_source(depth=2, width=24, heads=2, patch=7, tokens=17)
    config = google_vit(width=24, depth=2, heads=2, patch_size=7, image_size=28, activation="gelu_tanh", eps=1e-6)
    config = with_classes(config, 5, pre_logits=True)
    table = jax_keys(config)
    model = loaded(config, table, source)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        logits = model.project(model.pool(model(pixels)))
    expected = jax_forward(source, pixels, depth=2, patch=7)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, atol=TOLERANCE, rtol=0)
    back = dict(table.inverse().apply(model.state_dict()))
    assert back.keys() == source.keys()
    assert all(torch.equal(value, source[name]) for name, value in back.items())
