"""IDEFICS against transformers: text before the pictures, rows of unequal length and unequal numbers of pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check import few_shot, library, randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.systems import Variant
from polymodal.systems.idefics import SYSTEM
from polymodal.systems.idefics.checkpoint import EOU, FAKE, IMAGE


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], perceiver: dict[str, Any]) -> Any:
    """An IdeficsConfig of test size; the three dicts are what cases vary."""
    vision = {"embed_dim": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 7, **vision}  # fmt: skip
    perceiver = {"resampler_n_latents": 5, "resampler_depth": 2, "resampler_n_heads": 3, "resampler_head_dim": 8,
                 **perceiver}  # fmt: skip
    text = {"hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 4, "num_attention_heads": 4,
            "vocab_size": 90, "additional_vocab_size": 2, "cross_layer_interval": 2, "max_position_embeddings": 128,
            **text}  # fmt: skip
    return transformers.IdeficsConfig(vision_config=vision, perceiver_config=perceiver, **text)


def inputs(config: Any) -> Tensors:
    """Two rows padded on the left: two pictures in a row of texts with an end between; one picture and padding."""
    fake, image, eos = config.vocab_size, config.vocab_size + 1, 2
    if config.additional_vocab_size < 2:
        fake, image = 80, 81
    words = randomise.ids("words", (24,), 3, 80).tolist()
    picture = [fake, image, fake]
    rows = [[1, *words[:4], *picture, *words[4:7], eos, *words[7:9], *picture, *words[9:12]],
            [1, *words[12:15], *picture, *words[15:18]]]  # fmt: skip
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    side = config.vision_config.image_size
    pixels = randomise.values("pixels", (2, 2, 3, side, side))
    pixels[1, 1] = 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_attention_mask": seen(ids, image)}


def seen(ids: torch.Tensor, image: int) -> torch.Tensor:
    """What the published processor makes of ids: the last of two pictures, forgotten after an end (id 2)."""
    out = torch.zeros(*ids.shape, 2, dtype=torch.int64)
    for row, given in enumerate(ids.tolist()):
        count, ended = 0, False
        for position, index in enumerate(given):
            count, ended = (count + 1, False) if index == image else (count, ended)
            if count and not ended:
                out[row, position, count - 1] = 1
            ended = ended or index == 2
    return out


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures, once with and once without the ready-made mask."""
    rows = []
    for row, count in ((0, 2), (1, 1)):
        real = given["attention_mask"][row].bool()
        pixels = given["pixel_values"][row, None, :count]
        one = {"input_ids": given["input_ids"][row][real][None], "pixel_values": pixels}
        rows.append((row, {**one, "image_attention_mask": given["image_attention_mask"][row][real][None, :, :count]}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    """What the gated blocks look at, item by item: from the resampler, or the encoder where there is none.

    The class's own `image_hidden_states` are these until 5.23, the encoder's pooled vectors since 5.24.
    """
    looked_at = library.caught(oracle, given, "model.perceiver_resampler", "model.vision_model")
    return {"image": library.states(looked_at)}


def case(name: str, text: Any = (), vision: Any = (), perceiver: Any = ()) -> Any:
    return hugging_case(name, "IdeficsForVisionText2Text",
                        lambda transformers: tiny(transformers, dict(text), dict(vision), dict(perceiver)), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def size(variant: Variant) -> Size:
    config = dict(variant.config or {})
    return hugging_size(variant.name, "IdeficsForVisionText2Text", lambda library: library.IdeficsConfig(**config))


def small(vocabulary: int) -> dict[str, Any]:
    """A config as published, small enough to be trained in seconds; the last three words are added ones."""
    return {
        "model_type": "idefics", "architectures": ["IdeficsForVisionText2Text"], "vocab_size": vocabulary - 3,
        "additional_vocab_size": 3, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "cross_layer_interval": 1, "qk_layer_norms": True, "use_resampler": True,
        "alpha_type": "vector", "max_position_embeddings": 512,
        "vision_config": {"embed_dim": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
                          "image_size": 32, "patch_size": 8},
        "perceiver_config": {"resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4,
                             "resampler_head_dim": 8, "qk_layer_norms_perceiver": True},
    }  # fmt: skip


def training_check() -> TrainingCheck:
    """Pictures and their names, letter by letter; the stages differ in what trains."""
    torch.manual_seed(0)
    return caption_check(SYSTEM.formats[0].model_spec(small(34)).build(), [1, 31, 32, 31], side=32)


def headline() -> HeadlineResult:
    """Few-shot naming of real pictures by `chat`, from a folder in the published format."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        marks = {"<unk>": 0, "<s>": 1, "</s>": 2, FAKE: 259, IMAGE: 260, EOU: 261}
        config = small(byte_tokenizer(folder, marks, bos="<s>", eos="</s>", pad="<unk>"))
        write_config(folder, config=config, preprocessor_config={"image_size": 32})
        model_spec = SYSTEM.formats[0].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        return few_shot.few_shot_headline(folder, model_spec, system="idefics")


LIKE_RELEASED = {"qk_layer_norms": True, "use_resampler": True, "alpha_type": "vector", "alpha_initializer": "normal"}

EVIDENCE = Evidence(
    oracle="transformers IdeficsForVisionText2Text",
    cases=(
        case("as released: resampler, norms on queries and keys, gate per channel", LIKE_RELEASED, (),
             {"qk_layer_norms_perceiver": True}),
        case("no resampler, no norms, one gate a layer, a gated block in front of every layer",
             {"cross_layer_interval": 1, "num_hidden_layers": 3, "hidden_act": "gelu"}),
        case("resampler without norms, tied head, one layer", {"use_resampler": True, "tie_word_embeddings": True,
             "num_hidden_layers": 1, "cross_layer_interval": 1, "rms_norm_eps": 0.01}, {"patch_size": 14}),
        case("no added words, other widths and rope, one deep group", {**LIKE_RELEASED, "additional_vocab_size": 0,
             "hidden_size": 36, "num_attention_heads": 6, "cross_layer_interval": 4,
             "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
             {"hidden_act": "quick_gelu", "layer_norm_eps": 0.1}, {"resampler_depth": 1}),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"pretrain": training_check, "instruct": training_check},
    headline=headline,
)  # fmt: skip
