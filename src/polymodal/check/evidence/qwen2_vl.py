"""Qwen2-VL against transformers: pictures and videos of several sizes, M-RoPE, cached steps."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.patches import ConcatPatches, MergedPatches
from polymodal.systems import Variant
from polymodal.systems.qwen2_vl import SYSTEM

IMAGE, VIDEO, PATCH = 90, 91, 4
PICTURES = [[1, 4, 8], [1, 8, 4], [1, 4, 4]]
VIDEOS = [[9, 4, 4], [2, 8, 4]]


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A Qwen2VLConfig of test size; `text` and `vision` are what cases vary."""
    text = {"hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 2, 2]},
            **text}  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": text["hidden_size"], "patch_size": PATCH,
              **vision}  # fmt: skip
    return transformers.Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE,
                                      video_token_id=VIDEO, vision_start_token_id=92, vision_end_token_id=93,
                                      **more)  # fmt: skip


def rows_of(config: Any) -> list[list[int]]:
    """Text, a picture, text, a long video, text; two pictures and a video among text, the video at the end."""
    merged = config.vision_config.spatial_merge_size**2
    words = randomise.ids("words", (40,), 3, IMAGE).tolist()
    pictures = [[92, *[IMAGE] * (t * h * w // merged), 93] for t, h, w in PICTURES]
    videos = [[92, *[VIDEO] * (t * h * w // merged), 93] for t, h, w in VIDEOS]
    return [
        words[:5] + pictures[0] + words[5:8] + videos[0] + words[8:11],
        words[11:13] + pictures[1] + pictures[2] + words[13:29] + videos[1],
    ]


def batch(rows: list[list[int]]) -> Tensors:
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    types = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}


def patches(config: Any, name: str, grids: list[list[int]]) -> torch.Tensor:
    vision = config.vision_config
    count = sum(t * h * w for t, h, w in grids)
    return randomise.values(name, (count, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2))


def inputs(config: Any) -> Tensors:
    return {
        **batch(rows_of(config)),
        "pixel_values": patches(config, "pictures", PICTURES),
        "image_grid_thw": torch.tensor(PICTURES),
        "pixel_values_videos": patches(config, "videos", VIDEOS),
        "video_grid_thw": torch.tensor(VIDEOS),
    }


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own media."""
    rows = []
    grids = {"pixel_values": PICTURES, "pixel_values_videos": VIDEOS}
    sizes = {name: [t * h * w for t, h, w in found] for name, found in grids.items()}
    for row, pictures, videos in ((0, slice(0, 1), slice(0, 1)), (1, slice(1, 3), slice(1, 2))):
        own = batch([rows_of(config)[row]])
        for values, grid, chosen in (
            ("pixel_values", "image_grid_thw", pictures),
            ("pixel_values_videos", "video_grid_thw", videos),
        ):
            own[values] = torch.cat(given[values].split(sizes[values])[chosen])
            own[grid] = given[grid][chosen]
        rows.append((row, own))
    return rows


def words(config: Any) -> Tensors:
    """Text alone, two rows of unequal length."""
    ids = randomise.ids("words", (12,), 3, IMAGE).tolist()
    return batch([ids, ids[:5]])


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    names = {"image": ("pixel_values", "image_grid_thw"), "video": ("pixel_values_videos", "video_grid_thw")}
    named = {modality: {name: given[name] for name in some} for modality, some in names.items()}
    return {modality: list(library.features(oracle, modality, **some)) for modality, some in named.items()}


def case(name: str, text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> Any:
    return hugging_case(name, "Qwen2VLForConditionalGeneration",
                        lambda transformers: tiny(transformers, text or {}, vision or {}, **more), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    """The variant's flat config through the library's config class."""
    return hugging_size(
        variant.name, "Qwen2VLForConditionalGeneration", lambda t: t.Qwen2VLConfig(**(variant.config or {}))
    )


def small(vocabulary: int, image: int, video: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 16 tokens for a picture of 112 x 112."""
    return {
        "model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": vocabulary, "rms_norm_eps": 1e-6, "image_token_id": image, "video_token_id": video,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 2, "embed_dim": 48, "num_heads": 4, "hidden_size": 64, "mlp_ratio": 2},
    }  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ only in what trains."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31, 32)).build()
    pixels, cut = real.pixels(112), MergedPatches()

    def more(rows: list[int]) -> dict[str, Any]:
        items = [cut.flatten(pixels[row].expand(cut.frames, -1, -1, -1)) for row in rows]
        return ConcatPatches("pixel_values", "image_grid_thw")(items)

    return caption_check(model, [33, *[31] * 16, 34], side=112, more=more)


def headline() -> HeadlineResult:
    """A tiny Qwen2-VL is trained on eight real pictures and asked about each by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                    "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
        config = small(byte_tokenizer(folder, specials, eos="<|im_end|>", pad="<|endoftext|>"), 5, 6)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=80,
                       generation_config={"eos_token_id": 2},
                       preprocessor_config={"min_pixels": 56 * 56, "max_pixels": 112 * 112})  # fmt: skip
        sizes = [pm.load(folder).processor.modalities["image"].transform.grid(*size) for size in ((300, 90), (90, 300))]
    return HeadlineResult(
        ok=right == 8 and sizes[0] == (1, sizes[1][2], sizes[1][1]),
        evidence=f"tiny weights trained on 8 "
        f"pictures: chat names {right} of them; pictures of 300 x 90 and 90 x 300 are read as grids "
        f"{sizes[0]} and {sizes[1]} (published weights are fetched from the hub by id and were not at "
        "hand)",
    )


YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64,
        "mrope_section": [1, 3, 2]}  # fmt: skip
EVIDENCE = Evidence(
    oracle="transformers Qwen2VLForConditionalGeneration",
    cases=(
        case("pictures and videos, grouped heads"),
        case("tied head, one layer, one head", {"num_hidden_layers": 1, "num_attention_heads": 1,
             "num_key_value_heads": 1, "hidden_size": 20, "rope_parameters": {**YARN, "mrope_section": [4, 3, 3]}},
             {"depth": 1, "num_heads": 1, "embed_dim": 20, "mlp_ratio": 3}, tie_word_embeddings=True),
        case("sliding window, yarn, single frames, no merging", {"use_sliding_window": True, "sliding_window": 7,
             "max_window_layers": 1, "hidden_act": "gelu", "rope_parameters": YARN},
             {"temporal_patch_size": 1, "spatial_merge_size": 1, "hidden_act": "gelu", "in_channels": 1}),
        case("merging four by four", {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}, {"spatial_merge_size": 4}),
        hugging_case("text alone", "Qwen2VLForConditionalGeneration", lambda t: tiny(t, {}, {}), words, generate=True),
    ),
    published=tuple(size(variant) for variant in SYSTEM.variants),
    training_checks={"see": training_check, "all": training_check, "instruct": training_check},
    headline=headline,
)  # fmt: skip
