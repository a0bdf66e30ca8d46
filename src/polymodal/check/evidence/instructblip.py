"""InstructBLIP and InstructBlipVideo against transformers; the official layout against the same class."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, names_written, train_fresh_and_chat, write_config, write_weights
from polymodal.check.evidence import blip_2
from polymodal.check.evidence.blip_2 import IMAGE, QUERIES, T5, tiny, untied_size
from polymodal.check.fixture import store
from polymodal.check.hugging import Reading, hugging_case
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_check, learned, letters
from polymodal.data.messages import user
from polymodal.systems import LanguageModeling
from polymodal.systems.instructblip import SYSTEM

MODEL, VIDEO = "InstructBlipForConditionalGeneration", "InstructBlipVideoForConditionalGeneration"
VICUNA = {"model_type": "llama"}


def instructed(given: Tensors) -> Tensors:
    """The instruction of each picture for the Q-Former, one shorter than the others."""
    items = len(given["pixel_values"])
    ids = randomise.ids("instruction", (items, 6), 3, 60)
    mask = torch.ones_like(ids)
    mask[-1, 4:] = 0
    return {**given, "qformer_input_ids": ids, "qformer_attention_mask": mask}


def inputs(config: Any) -> Tensors:
    return instructed(blip_2.inputs(config))


def between(config: Any) -> Tensors:
    return instructed(blip_2.between(config))


def answered(config: Any) -> Tensors:
    return instructed(blip_2.answered(config))


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding, with its own pictures and their instructions."""
    rows = []
    for (row, inputs), pictures in zip(blip_2.alone(config, given), (slice(0, 1), slice(1, 3)), strict=True):
        more = {name: given[name][pictures] for name in given if name.startswith("qformer")}
        rows.append((row, {**inputs, **more}))
    return rows


def case(name: str, text: dict[str, Any], given: Any = None, **changes: Any) -> Case:
    """vision, asked: what a case varies of the two other configs."""
    seq2seq = text.get("model_type") == "t5"
    vision, asked = changes.pop("vision", {}), changes.pop("asked", {})
    made = given or (answered if seq2seq else inputs)
    return hugging_case(
        name, MODEL, lambda t: tiny(t.InstructBlipConfig, text, vision, asked, **changes), made,
        reading=Reading(features=blip_2.features), generate=True if not seq2seq and made is inputs else inputs,
        alone=None if made is between else alone,
    )  # fmt: skip


FRAMES = 4


def filmed(config: Any) -> Tensors:
    """Two videos of four frames, one row each, text before and after; the second row is shorter."""
    words = randomise.ids("words", (20,), 3, IMAGE).tolist()
    film = [config.video_token_index] * (config.num_query_tokens * FRAMES)
    ids = torch.tensor([[*words[:3], *film, *words[3:9]], [1, 1, *words[9:10], *film, *words[10:16]]])
    side = config.vision_config.image_size
    return {
        "input_ids": ids,
        "attention_mask": (ids != 1).long(),
        "pixel_values": randomise.values("frames", (2, FRAMES, 3, side, side)),
        "qformer_input_ids": randomise.ids("instruction", (2, 5), 3, 60),
        "qformer_attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]),
    }


def video(name: str, text: dict[str, Any]) -> Case:
    seq2seq = text.get("model_type") == "t5"

    def config(transformers: Any) -> Any:
        found = tiny(transformers.InstructBlipVideoConfig, text, {}, {}, video_token_index=IMAGE)
        return found

    def given(settings: Any) -> Tensors:
        more = {"decoder_input_ids": randomise.ids("answer", (2, 7), 2, IMAGE)} if seq2seq else {}
        return {**filmed(settings), **more}

    def features(oracle: Any, tensors: Tensors) -> dict[str, Any]:
        named = {name: tensors[name] for name in tensors if name.startswith(("pixel", "qformer"))}
        found = library.features(oracle, "video", **named)
        return {"video": found.reshape(2, FRAMES * QUERIES, -1)}

    return hugging_case(name, VIDEO, config, given, reading=Reading(features=features), generate=filmed)


def official(name: str, text: dict[str, Any], projection: str, language: str) -> Case:
    """Everything in one official file beside a config.json."""

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            settings = tiny(transformers.InstructBlipConfig, text, {}, {})
            oracle = blip_2.official(library.built(transformers, MODEL, settings))
            given = answered(settings) if text.get("model_type") == "t5" else inputs(settings)
            logits = library.logits(oracle, given)
            more = (("language_projection", projection), ("language_model", language))
            state = blip_2.official_names(oracle.state_dict(), settings.vision_config.hidden_size, more)
            store(state, folder / "model.pth", "model")
            said = {**library.settings(settings), "model_type": "lavis-instructblip", "architectures": None}
            (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
        return Expected(inputs=given, logits=logits)

    return Case(name=name, make=make, needs="transformers")


def reading(rows: list[int]) -> dict[str, torch.Tensor]:
    """The same instruction for every picture of a batch."""
    ids = torch.tensor([[1, *letters("what is it"), 2]] * len(rows))
    return {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}


def training_check() -> TrainingCheck:
    """Vicuna names the pictures, letter by letter; it and the encoder are frozen."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(blip_2.small(SMALL, 40, 31)).build()
    return caption_check(model, [31] * 4 + [32], side=56, more=reading, steps=100)


SMALL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4}  # fmt: skip


def headline(layout: int = 0, weights: str = "model.safetensors", **named: Any) -> HeadlineResult:
    """A tiny InstructBLIP learns eight real pictures by `chat`; then the features of one picture for two questions.

    layout: number of the format; weights: its weights file; named: what its config.json is recognised by.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "qformer_tokenizer").mkdir()
        words = byte_tokenizer(folder / "qformer_tokenizer", ["[PAD]", "[CLS]", "[SEP]"], pad="[PAD]")
        size = byte_tokenizer(folder, ["<pad>", "</s>", "<image>"], bos="</s>", eos="</s>", pad="<pad>")
        named = named or {"model_type": "instructblip", "architectures": [MODEL]}
        config = {**blip_2.small(SMALL, size, 2), **named}
        config["qformer_config"] |= {"vocab_size": words}
        right = train_fresh_and_chat(folder, SYSTEM.formats[layout], config, weights, steps=300,
                       preprocessor_config={"size": {"height": 56, "width": 56}},
                       generation_config={"eos_token_id": 1})  # fmt: skip
        model = pm.load(folder)
        shown = pm.image(real.pictures()[0][0])
        seen = [model.features(**_media(model.processor([user(shown, said)]))) for said in ("What is it?", "How many?")]
        differ = float((seen[0]["image"] - seen[1]["image"]).abs().max())
    return HeadlineResult(
        ok=right == 8 and differ > 1e-3,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of "
        f"them; the features of one picture for two questions differ by {differ:.2f}",
    )


def official_headline() -> HeadlineResult:
    """The same in one file of LAVIS beside a config.json."""
    return headline(2, "model.pth", model_type="lavis-instructblip")


def video_headline() -> HeadlineResult:
    """Still videos, four frames of a picture: this layout has no processor here, so a loaded one is asked by
    `generate` and `features`."""
    torch.manual_seed(0)
    config = {**blip_2.small(SMALL, 40, 31), "model_type": "instructblipvideo", "architectures": [VIDEO],
              "video_token_index": 31}  # fmt: skip
    model_spec, prompt, pixels = SYSTEM.formats[1].model_spec(config), [31] * (4 * FRAMES) + [32], real.pixels(56)

    def filmed(rows: list[int]) -> dict[str, Any]:
        return {**reading(rows), "pixel_values": pixels[rows, None].expand(-1, FRAMES, -1, -1, -1)}

    check = caption_check(model_spec.build(), prompt, side=56, more=filmed)
    first = replace(check, batches=lambda step: check.batches(12 * step))  # the first eight pictures of 96
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_config(folder, config=config)
        write_weights(folder, learned(first, LanguageModeling(), steps=150), model_spec.keys[0])
        model = pm.load(folder)
    right = names_written(model, prompt, filmed)
    given, other = filmed([0]), torch.tensor([[1, *letters("how many"), 2]])
    asked = {**given, "qformer_input_ids": other, "qformer_attention_mask": torch.ones_like(other)}
    with torch.no_grad():
        differ = float((model.features(**given)["video"] - model.features(**asked)["video"]).abs().max())
    said = f"generate names {right} of 8 still videos; the features of one for two questions differ by {differ:.2f}"
    return HeadlineResult(ok=right == 8 and differ > 1e-3, evidence=said)


def _media(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ("pixel_values", "qformer_input_ids", "qformer_attention_mask")}


EVIDENCE = Evidence(
    oracle="transformers InstructBlipForConditionalGeneration and InstructBlipVideoForConditionalGeneration",
    cases=(
        case("vicuna", VICUNA),
        case("vicuna, padding between picture and text", VICUNA, between),
        case("opt", {}, between),
        case("vicuna, tied, odd widths, one layer", {**VICUNA, "num_hidden_layers": 1, "hidden_size": 48,
             "num_key_value_heads": 1, "tie_word_embeddings": True, "attention_bias": True},
             vision={"hidden_size": 30, "num_attention_heads": 3, "patch_size": 7, "qkv_bias": False},
             asked={"hidden_size": 22, "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_act": "relu"},
             num_query_tokens=3),
        case("flan-t5", {**T5, "tie_word_embeddings": False, "dense_act_fn": "gelu"}),
        video("video, vicuna", VICUNA),
        video("video, flan-t5", T5),
        official("official file, Vicuna", VICUNA, "llm_proj", "llm_model"),
        official("official file, Flan-T5", T5, "t5_proj", "t5_model"),
    ),
    published=tuple(untied_size(each, lambda t: t.InstructBlipConfig) for each in SYSTEM.variants),
    training_checks={"instruct": training_check},
    headline=headline,
    layouts={SYSTEM.formats[1].name: video_headline, SYSTEM.formats[2].name: official_headline},
)  # fmt: skip
