"""LLaVA-1.6 against transformers: pictures of several proportions, tiles, newlines, three families of text."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import TEXT, VISION, Composite, official_headline
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.connectors.anyres import AnyResConfig, grids_of_pinpoints
from polymodal.encoders.tiled import tile_counts
from polymodal.systems import Variant
from polymodal.systems.llava_1_6 import SYSTEM

IMAGE = 90
PICTURES = [(37, 81), (200, 20), (30, 30)]  # height, width


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A LlavaNextConfig of test size; `text` and `vision` are what cases vary."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3,
              "num_attention_heads": 4, "image_size": 20, "patch_size": 5, **vision}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99, **text}  # fmt: skip
    side = vision["image_size"]
    points = [[side * down, side * across] for down, across in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    return transformers.LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=IMAGE,
                                        **{"image_grid_pinpoints": points, **more})  # fmt: skip


def grid_rules(config: Any) -> AnyResConfig:
    tile = config.vision_config.image_size
    grids = grids_of_pinpoints(config.image_grid_pinpoints, tile)
    return AnyResConfig(tile=tile, side=tile // config.vision_config.patch_size, grids=grids)


def rows_of(config: Any) -> list[list[int]]:
    words = randomise.ids("words", (24,), 3, IMAGE).tolist()
    pictures = [[IMAGE] * grid_rules(config).tokens_of(*size) for size in PICTURES]
    return [
        words[:5] + pictures[0] + words[5:9],
        words[9:12] + pictures[1] + words[12:19] + pictures[2],
    ]


def inputs(config: Any) -> Tensors:
    """Two rows padded on the left, three pictures of other proportions, tiles filled up with zeros."""
    rules = grid_rules(config)
    counts = tile_counts(PICTURES, rules.tile, rules.grids)
    pixels = torch.zeros(len(PICTURES), max(counts), 3, rules.tile, rules.tile)
    for index, count in enumerate(counts):
        pixels[index, :count] = randomise.values(f"picture {index}", tuple(pixels[index, :count].shape))
    rows = rows_of(config)
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": torch.tensor(PICTURES)}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    return [
        (row, {"input_ids": torch.tensor([rows_of(config)[row]]), "pixel_values": given["pixel_values"][chosen],
               "image_sizes": given["image_sizes"][chosen]})
        for row, chosen in ((0, slice(0, 1)), (1, slice(1, 3)))
    ]  # fmt: skip


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    named = {name: given[name] for name in ("pixel_values", "image_sizes")}
    return {"image": list(library.features(oracle, "image", **named))}


def case(name: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "LlavaNextForConditionalGeneration",
                        lambda transformers: tiny(transformers, text or {}, vision or {}, **more), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


class Official(Composite):
    """The official merge `spatial_unpad`, written out once more: sizes (height, width), nothing rounded."""

    def __init__(self, transformers: Any) -> None:
        super().__init__(transformers, 2, TEXT, VISION, -2)
        self.newline = torch.nn.Parameter(torch.zeros(TEXT["hidden_size"]))

    def picture(self, tiles: torch.Tensor, height: int, width: int, down: int, across: int) -> torch.Tensor:
        """[t, 3, 28, 28], the whole picture first -> [q, D]."""
        found = self.features(tiles)
        grid = found[1:].view(down, across, 4, 4, -1).permute(4, 0, 2, 1, 3).flatten(1, 2).flatten(2, 3)
        rows, columns = grid.shape[1:]
        if width / height > columns / rows:
            cut = (rows - int(height * (columns / width))) // 2
            grid = grid[:, cut : rows - cut]
        else:
            cut = (columns - int(width * (rows / height))) // 2
            grid = grid[:, :, cut : columns - cut]
        ends = self.newline[:, None, None].expand(-1, grid.shape[1], 1)
        return torch.cat((found[0], torch.cat((grid, ends), 2).flatten(1).T))


def make_official(folder: Path) -> Expected:
    """An official checkpoint of test size with two pictures in one row."""
    with library.quiet() as transformers:
        oracle = Official(transformers)
        randomise.fill(oracle)
        whole, tower = oracle.on_disk(linear=False)
        whole |= {f"model.vision_tower.vision_tower.vision_model.{key}": x for key, x in tower.items()}
        library.saved(oracle.tower, folder / "clip")
        save_file({**whole, "model.image_newline": oracle.newline.detach()}, folder / "model.safetensors")
        config = {**TEXT, "model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"],
                  "mm_vision_tower": str(folder / "clip"), "mm_projector_type": "mlp2x_gelu",
                  "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
                  "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]]}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tiles = [randomise.values("wide", (3, 3, 28, 28)), randomise.values("square", (5, 3, 28, 28))]
        with torch.no_grad():
            seen = [oracle.picture(tiles[0], 30, 71, 1, 2), oracle.picture(tiles[1], 90, 83, 2, 2)]
            words = randomise.ids("words", (12,), 3, 90).tolist()
            ids = [*words[:4], *[-200] * len(seen[0]), *words[4:7], *[-200] * len(seen[1]), *words[7:]]
            given = torch.tensor([ids])
            embeds = library.embedded(oracle.text, given.clamp_min(0))
            embeds[given == -200] = torch.cat(seen)
            logits = library.logits(oracle.text, {"inputs_embeds": embeds})
            new = library.greedy(oracle.text, {"inputs_embeds": embeds}, {})
    inputs = {"input_ids": given, "images": torch.cat(tiles), "image_sizes": torch.tensor([[30, 71], [90, 83]])}
    return Expected(inputs=inputs, logits=logits, generated=torch.cat((given, new), 1))


def size(variant: Variant) -> Size:
    config = variant.config or {}
    return hugging_size(variant.name, "LlavaNextForConditionalGeneration", lambda t: t.LlavaNextConfig(**config))


def small(vocabulary: int, image: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: tiles of 56 x 56 with 16 tokens each."""
    return {
        "model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"], "image_token_index": image,
        "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]],
        "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
                          "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        "text_config": {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "vocab_size": vocabulary},
    }  # fmt: skip


def training_check() -> TrainingCheck:
    """Wide pictures and their names, letter by letter; both stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31)).build()
    whole, wide = real.pixels(56), real.pixels(56, 112)
    rules = AnyResConfig(tile=56, side=4, grids=((1, 2), (2, 1), (2, 2)))

    def more(rows: list[int]) -> dict[str, Any]:
        tiles = torch.stack((whole[rows], wide[rows][..., :56], wide[rows][..., 56:]), 1)
        return {"pixel_values": tiles, "image_sizes": torch.tensor([[56, 112]] * len(rows))}

    return caption_check(model, [31] * rules.tokens_of(56, 112) + [32], side=56, more=more)


OFFICIAL = {"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "anyres", "mm_patch_merge_type": "spatial_unpad",
            "image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]}  # fmt: skip


def headline() -> HeadlineResult:
    """A tiny LLaVA-1.6 is trained on eight real pictures, cut into tiles, and asked about each by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
        config = small(size, 2)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=80, generation_config={"eos_token_id": 1})
        image = pm.load(folder).processor.modalities["image"]
        shapes = {size: image.transform(Pillow.new("RGB", size)) for size in ((300, 120), (120, 300))}
        tokens = {size: image.tokens(value) for size, value in shapes.items()}
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them; "
        f"tokens by size of the picture: {tokens} (published weights are fetched from the hub by id and were not at "
        "hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers LlavaNextForConditionalGeneration",
    cases=(
        case("llama, grouped heads"),
        case("mistral with a window, other grids, joined layers, no connector bias",
             {"model_type": "mistral", "sliding_window": 9, "head_dim": 8}, {"patch_size": 10},
             image_grid_pinpoints=[[20, 40], [80, 20]], vision_feature_layer=[-2, 1], multimodal_projector_bias=False),
        case("qwen2, tied head, SigLIP with every patch", {"model_type": "qwen2", "num_hidden_layers": 1},
             {"model_type": "siglip_vision_model"}, tie_word_embeddings=True, vision_feature_layer=-1,
             vision_feature_select_strategy="full", projector_hidden_act="relu"),
        case("gemma, untied as the outer config says", {"model_type": "gemma", "head_dim": 16}),
        Case(name="official names, tower inside", make=make_official, needs="transformers"),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
    layouts={SYSTEM.formats[1].name: lambda: official_headline(SYSTEM.formats[1], **OFFICIAL)},
)  # fmt: skip
