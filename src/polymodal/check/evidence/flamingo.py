"""Flamingo against a composite, since nothing was released: flamingo-pytorch's resampler and gated blocks, with squared
ReLU put in, around the layers of transformers' LLaMA with plain feed-forward layers put in.

The encoder is ours on both sides here; it equals timm's NFNet in the stored case `nfnet` (tests/encoders).
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import chinchilla
from polymodal.check import few_shot, library, randomise, real
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.fixture import read
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.encoders import nfnet
from polymodal.systems import Variant
from polymodal.systems.flamingo import SYSTEM
from polymodal.systems.flamingo.checkpoint import BOS, END, IMAGE
from polymodal.weights.build import nothing_drawn

MEDIA = 2


def small(vocabulary: int = 50, **more: Any) -> dict[str, Any]:
    """A config small enough to be compared and trained in seconds."""
    return {
        "model_type": "flamingo", "media_token_id": MEDIA, "cross_attn_every_n_layers": 1,
        "vision_config": {"image_size": 64, "depths": [1, 1], "channels": [16, 32], "stem_width": 16, "group_size": 8},
        "perceiver_config": {"depth": 1, "heads": 4, "dim_head": 8, "num_latents": 4, "max_num_frames": 3},
        "text_config": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
                        "vocab_size": vocabulary, "max_position_embeddings": 512},
    } | more  # fmt: skip


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(0) ** 2


class Layer(nn.Module):
    """A gated block of flamingo-pytorch (or none) before a decoder layer; `seen` holds media and their positions."""

    def __init__(self, gated: Any, layer: nn.Module, seen: dict[str, Tensor]) -> None:
        super().__init__()
        if gated is not None:
            self.gated_cross_attn_layer = gated
        self.decoder_layer = layer
        self.seen = seen

    def forward(self, x: Tensor, **more: Any) -> Any:
        if hasattr(self, "gated_cross_attn_layer"):
            x = self.gated_cross_attn_layer(x, self.seen["media"], media_locations=self.seen["positions"])
        return self.decoder_layer(x, **more)


class Composite(nn.Module):
    """The whole oracle; its state dict has the names of the layout."""

    def __init__(self, transformers: Any, config: Mapping[str, Any]) -> None:
        super().__init__()
        import flamingo_pytorch

        text, given, every = config["text_config"], config["perceiver_config"], config["cross_attn_every_n_layers"]
        text = {**chinchilla.DEFAULTS, **text, "model_type": "llama"}
        vision = nfnet.parse_config(config["vision_config"])
        width, seen = text["hidden_size"], vision.width
        self.vision_encoder = vision.build()
        self.perceiver = flamingo_pytorch.PerceiverResampler(
            dim=seen, depth=given["depth"], dim_head=given["dim_head"], heads=given["heads"],
            num_latents=given["num_latents"], num_media_embeds=1,
        )  # fmt: skip
        self.perceiver.frame_embs = nn.Parameter(torch.zeros(given["max_num_frames"], seen))
        settings = transformers.LlamaConfig(
            **text, intermediate_size=4 * width, rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=False
        )
        lm = self.lang_encoder = transformers.LlamaForCausalLM(settings)
        self.context: dict[str, Tensor] = {}
        layers = []
        for number, layer in enumerate(lm.model.layers):
            layer.mlp = nn.Sequential()
            layer.mlp.up_proj, layer.mlp.act = nn.Linear(width, 4 * width, bias=False), nn.GELU()
            layer.mlp.down_proj = nn.Linear(4 * width, width, bias=False)
            gated = None
            if number % every == 0:
                gated = flamingo_pytorch.GatedCrossAttentionBlock(
                    dim=width, dim_head=text["head_dim"], heads=text["num_attention_heads"]
                )
                inner = text["head_dim"] * text["num_attention_heads"]
                gated.attn.to_kv = nn.Linear(seen, 2 * inner, bias=False)
                gated.ff[2] = SquaredReLU()
            layers.append(Layer(gated, layer, self.context))
        for block in self.perceiver.layers:
            block[1][2] = SquaredReLU()
        lm.model.layers = nn.ModuleList(layers)

    def features(self, vision_x: Tensor) -> Tensor:
        """[B, N, frames, 3, H, W] -> [B, N, latents, D]."""
        rows, items, frames = vision_x.shape[:3]
        found = self.vision_encoder(vision_x.flatten(0, 2)).unflatten(0, (rows * items, frames))
        found = (found + self.perceiver.frame_embs[:frames, None]).flatten(1, 2)[:, None]
        return self.perceiver(found)[:, 0].unflatten(0, (rows, items))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, vision_x: Tensor) -> Tensor:
        self.context["media"], self.context["positions"] = self.features(vision_x), input_ids == MEDIA
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        return library.logits(self.lang_encoder, given)


def case(name: str, config: Mapping[str, Any], frames: int) -> Case:
    def make(folder: Path) -> Expected:
        with library.quiet() as transformers:
            oracle = Composite(transformers, config).eval()
        randomise.fill(oracle)
        nn.init.zeros_(oracle.perceiver.media_pos_emb)  # frames have positions here, items have none
        dropped = ("lang_encoder.lm_head.weight", "perceiver.media_pos_emb")
        kept = {name: x for name, x in oracle.state_dict().items() if name not in dropped}
        weights = {name: x for name, x in kept.items() if not name.startswith("vision_encoder.")}
        vision = nfnet.TIMM_KEYS.inverse().apply(oracle.vision_encoder.state_dict())
        weights |= {f"vision_encoder.{name}": x.contiguous() for name, x in vision}
        torch.save(weights, folder / "checkpoint.pt")
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        given = inputs(config, frames)
        with torch.no_grad():
            logits, features = oracle(**given), oracle.features(given["vision_x"]).flatten(0, 1)
            ids, mask = given["input_ids"], given["attention_mask"]
            for _ in range(16):
                step = oracle(ids, mask, given["vision_x"])[:, -1].argmax(-1, keepdim=True)
                ids, mask = torch.cat((ids, step), 1), torch.cat((mask, torch.ones_like(step)), 1)
        return Expected(inputs=given, logits=logits, features={"image": features}, generated=ids, alone=alone(given))

    return Case(name=name, make=make, needs="flamingo_pytorch")


def inputs(config: Mapping[str, Any], frames: int) -> Tensors:
    """Two rows padded on the left: three items and one, texts before and between them."""
    words = randomise.ids("words", (20,), 3, config["text_config"]["vocab_size"]).tolist()
    rows = [[1, *words[:2], MEDIA, *words[2:5], MEDIA, MEDIA, *words[5:9]], [1, *words[9:12], MEDIA, *words[12:15]]]
    length, side = max(map(len, rows)), config["vision_config"]["image_size"]
    pixels = randomise.values("pixels", (2, 3, frames, 3, side, side))
    pixels[1, 1:] = 0
    return {"input_ids": torch.tensor([[0] * (length - len(row)) + row for row in rows]), "vision_x": pixels,
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])}  # fmt: skip


def alone(given: Tensors) -> list[tuple[int, Tensors]]:
    rows = []
    for row, count in ((0, 3), (1, 1)):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, "vision_x": given["vision_x"][row, None, :count]}))
    return rows


def size(variant: Variant) -> Size:
    """The composite at the paper's size, timm's F6 in front without the classifier's last layers."""

    @cache
    def shapes() -> Shapes:
        with library.quiet() as transformers, nothing_drawn():
            made = Composite(transformers, dict(variant.config or {}))
        left_out = ("vision_encoder.", "lang_encoder.lm_head.weight", "perceiver.media_pos_emb")
        found = {n: tuple(x.shape) for n, x in made.state_dict().items() if not n.startswith(left_out)}
        vision = json.loads(read("nfnet")[0]["published_shapes"])
        kept = {n: shape for n, shape in vision.items() if n.startswith(("stem.", "stages."))}
        return found | {f"vision_encoder.{name}": tuple(shape) for name, shape in kept.items()}

    return Size(
        variant=variant.name,
        shapes=shapes,
        source="names and shapes of the composite on the meta device and of timm's dm_nfnet_f6; nothing is published",
        parameters=lambda: sum(math.prod(shape) for shape in shapes().values()),
        needs="flamingo_pytorch",
    )


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter."""
    torch.manual_seed(0)
    pixels = real.pixels(64)
    model = SYSTEM.formats[0].model_spec(small(32)).build()
    made = caption_check(model, [1, MEDIA], side=64, more=lambda rows: {"vision_x": pixels[rows], "pixel_values": None})
    return replace(made, batches=lambda step: {"M3W": made.batches(step)})


def headline() -> HeadlineResult:
    """Few-shot naming of real pictures by `chat`, from a folder."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        config = small(byte_tokenizer(folder, {BOS: 0, END: 1, IMAGE: MEDIA}, bos=BOS, eos=END, pad=END))
        write_config(folder, config={**config, "eos_token_id": 1})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        return few_shot.few_shot_headline(folder, model_spec, system="flamingo", lr=2e-3)


DEEP = small(61, cross_attn_every_n_layers=2,
             text_config={"hidden_size": 40, "num_hidden_layers": 4, "num_attention_heads": 2, "head_dim": 20,
                          "vocab_size": 61, "max_position_embeddings": 128},
             perceiver_config={"depth": 2, "heads": 3, "dim_head": 8, "num_latents": 5,
                               "max_num_frames": 2})  # fmt: skip

EVIDENCE = Evidence(
    oracle="composite of flamingo-pytorch 0.1.2 and transformers LlamaForCausalLM; timm 1.0.20 for the encoder",
    cases=(
        case("pictures, a gated block in front of every layer", small(), 1),
        case("videos of two frames, in front of every second layer", DEEP, 2),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"mixture": training_check},
    headline=headline,
    exceptions=(
        "nothing was released: names and counts are those of the composite at the paper's sizes",
        "the decoder's positions are rotary, Chinchilla's are Transformer-XL's",
    ),
)
