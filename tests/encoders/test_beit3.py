"""BEiT-3 against its formulas in plain torch: pictures, texts, pairs; queries in place of words."""

import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.check import randomise
from polymodal.checkpoints.beit3 import keys, parse_config
from polymodal.encoders.beit3 import BEiT3, QueryTower
from polymodal.errors import ConfigError
from polymodal.weights.export import export_tensors

SMALL = {"img_size": 12, "patch_size": 4, "encoder_embed_dim": 16, "encoder_attention_heads": 2,
         "encoder_ffn_embed_dim": 24, "encoder_layers": 2, "max_source_positions": 9}  # fmt: skip
HEADS = 2


def build() -> tuple[BEiT3, dict[str, Tensor]]:
    config = parse_config(SMALL, words=20, mask_token=True)
    model = config.build().eval()
    randomise.fill(model)
    return model, export_tensors(model, keys(config))


def plain(
    weights: Mapping[str, Tensor], pixels: Tensor | None, ids: Tensor | None, real: Tensor | None = None
) -> Tensor:
    """torchscale's formulas, kind by kind."""
    parts = {}
    if pixels is not None:
        x = F.conv2d(pixels, weights["vision_embed.proj.weight"], weights["vision_embed.proj.bias"], stride=4)
        x = torch.cat((weights["vision_embed.cls_token"].expand(len(x), 1, -1), x.flatten(2).mT), 1)
        parts["A"] = x + weights["encoder.embed_positions.A.weight"][2:]
    if ids is not None:
        parts["B"] = (
            weights["text_embed.weight"][ids] + weights["encoder.embed_positions.B.weight"][2 : 2 + ids.shape[1]]
        )

    def each(name: str, xs: Mapping[str, Tensor], norm: bool = False) -> dict[str, Tensor]:
        found = {}
        for kind, x in xs.items():
            where = name.replace("{}", kind)
            weight, bias = weights[f"{where}.weight"], weights[f"{where}.bias"]
            found[kind] = F.layer_norm(x, x.shape[-1:], weight, bias, 1e-5) if norm else F.linear(x, weight, bias)
        return found

    for layer in range(2):
        at = f"encoder.layers.{layer}"
        seen = each(f"{at}.self_attn_layer_norm.{{}}", parts, norm=True)
        q, k, v = (torch.cat(list(each(f"{at}.self_attn.{n}_proj.{{}}", seen).values()), 1).unflatten(-1, (HEADS, -1))
                   .transpose(1, 2) for n in "qkv")  # fmt: skip
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if real is not None:
            scores = scores.masked_fill(real[:, None, None] == 0, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        pieces = dict(zip(parts, mixed.split([x.shape[1] for x in parts.values()], 1), strict=True))
        out = each(f"{at}.self_attn.out_proj.{{}}", each(f"{at}.self_attn.inner_attn_ln.{{}}", pieces, norm=True))
        parts = {kind: x + out[kind] for kind, x in parts.items()}
        up = each(f"{at}.ffn.{{}}.fc1", each(f"{at}.final_layer_norm.{{}}", parts, norm=True))
        active = {kind: F.gelu(x) for kind, x in up.items()}
        down = each(f"{at}.ffn.{{}}.fc2", each(f"{at}.ffn.{{}}.ffn_layernorm", active, norm=True))
        parts = {kind: x + down[kind] for kind, x in parts.items()}
    return torch.cat(list(each("encoder.layer_norm.{}", parts, norm=True).values()), 1)


@torch.no_grad()
def test_pictures_texts_and_pairs_are_those_of_the_formulas() -> None:
    model, weights = build()
    pixels, ids = randomise.values("pixels", (2, 3, 12, 12)), randomise.ids("text", (2, 7), 0, 20)
    real = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    for given in ((pixels, None), (None, ids), (pixels, ids)):
        assert (model(*given) - plain(weights, *given)).abs().max() < 1e-5
    pair = model(pixels, ids, attention_mask=real)
    seen = F.pad(real, (10, 0), value=1)
    assert (pair - plain(weights, pixels, ids, seen))[seen.bool()].abs().max() < 1e-5


@torch.no_grad()
def test_queries_stand_where_words_do() -> None:
    config = parse_config(SMALL)
    tower = QueryTower(config, 3).eval()
    randomise.fill(tower)
    pixels = randomise.values("pixels", (2, 3, 12, 12))
    whole = tower.tower(pixels, tower.queries.expand(2, -1, -1))
    assert torch.equal(tower(pixels), whole[:, 10:])
    with torch.no_grad():
        tower.tower.picture_positions.weight[:2] = torch.nan  # never read
        tower.tower.text_positions.weight[:2] = torch.nan
    assert torch.equal(tower(pixels), whole[:, 10:])


@torch.no_grad()
def test_hidden_patches_are_the_mask_token() -> None:
    model, _ = build()
    pixels = randomise.values("pixels", (1, 3, 12, 12))
    hidden = torch.zeros(1, 9, dtype=torch.bool)
    hidden[0, 4] = True
    other = pixels.clone()
    other[..., 4:8, 4:8] = 9.0  # what is under the mask does not matter
    assert torch.equal(model(pixels, bool_masked_pos=hidden), model(other, bool_masked_pos=hidden))
    assert not torch.equal(model(pixels), model(other))


def test_refusals_name_count_and_limit() -> None:
    model, _ = build()
    with pytest.raises(ConfigError, match="found neither"):
        model()
    with pytest.raises(ConfigError, match=r"expected pixel_values \[N, 3, 12, 12\], found \[1, 3, 16, 16\]"):
        model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ConfigError, match="a text of 8 tokens for a limit of 7"):
        model(text=torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ConfigError, match="no table of words"):
        parse_config(SMALL).build()(text=torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="needs a model with a mask token"):
        parse_config(SMALL).build()(torch.zeros(1, 3, 12, 12), bool_masked_pos=torch.zeros(1, 9))
    with pytest.raises(ConfigError, match="smaller than one patch"):
        parse_config({**SMALL, "img_size": 3})
