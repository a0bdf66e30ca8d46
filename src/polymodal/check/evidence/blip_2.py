"""BLIP-2 against transformers; the official layout against the same classes with the official code's differences."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.demo import byte_tokenizer, train_fresh_and_chat, write_config, write_layout
from polymodal.check.fixture import store
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import LETTERS, caption_check, learned, letters, rows, table
from polymodal.systems.blip_2 import SYSTEM

IMAGE, QUERIES, WORDS = 98, 5, 99
GENERATE, RETRIEVE = "Blip2ForConditionalGeneration", "Blip2ForImageTextRetrieval"
TEXTS: dict[str, dict[str, Any]] = {
    "opt": {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": WORDS,
            "max_position_embeddings": 80, "word_embed_proj_dim": None},
    "llama": {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 48, "vocab_size": WORDS},
    "t5": {"d_model": 36, "d_kv": 10, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4,
           "vocab_size": WORDS, "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
}  # fmt: skip


def tiny(cls: Any, text: dict[str, Any], vision: dict[str, Any], asked: dict[str, Any], **more: Any) -> Any:
    """A config of test size; `text`, `vision` and `asked` are what cases vary.  cls: its class in transformers."""
    vision = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14, **vision}  # fmt: skip
    asked = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 36,
             "vocab_size": 60, **asked}  # fmt: skip
    text = {**TEXTS[text.get("model_type", "opt")], "model_type": "opt", **text}
    more = {"num_query_tokens": QUERIES, "image_token_index": IMAGE, **more}
    return cls(vision_config=vision, qformer_config=asked, text_config=text, **more)


def inputs(config: Any) -> Tensors:
    """Two rows of unequal length padded on the left: one picture between texts; two pictures, the last at the end."""
    side = config.vision_config.image_size
    words = randomise.ids("words", (40,), 3, IMAGE).tolist()
    picture = [IMAGE] * config.num_query_tokens
    rows = [words[:5] + picture + words[5:9], words[9:12] + picture + words[12:19] + picture]
    length = max(map(len, rows))
    ids = torch.tensor([[1] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    pixels = randomise.values("pixels", (3, 3, side, side))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def between(config: Any) -> Tensors:
    """As the published processor pads: behind the picture's tokens, before the text."""
    given = inputs(config)
    words = randomise.ids("more", (9,), 3, IMAGE).tolist()
    picture = [IMAGE] * config.num_query_tokens
    ids = torch.tensor([[*picture, 2, *words], [*picture, 1, 1, 1, 2, *words[3:]]])
    return {"input_ids": ids, "attention_mask": (ids != 1).long(), "pixel_values": given["pixel_values"][:2]}


def answered(config: Any) -> Tensors:
    """The same with what a decoder of its own has written so far."""
    return {**inputs(config), "decoder_input_ids": randomise.ids("answer", (2, 7), 2, IMAGE)}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    rows = []
    for row, pictures in ((0, slice(0, 1)), (1, slice(1, 3))):
        kept = given["attention_mask"][row].bool()
        more = {name: given[name][row : row + 1] for name in given if name.startswith("decoder")}
        ids = given["input_ids"][row][kept][None]
        rows.append((row, {**more, "input_ids": ids, "pixel_values": given["pixel_values"][pictures]}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    named = {name: given[name] for name in given if name == "pixel_values" or name.startswith("qformer")}
    return {"image": library.features(oracle, "image", **named)}


def case(
    name: str,
    text: dict[str, Any],
    vision: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
    **more: Any,
) -> Case:
    """One generating model; `given` of the keywords: its inputs."""
    seq2seq = text.get("model_type") == "t5"
    given = more.pop("given", answered if seq2seq else inputs)
    return hugging_case(
        name, GENERATE, lambda t: tiny(t.Blip2Config, text, vision or {}, asked or {}, **more), given,
        # A full pass counts columns where generation counts tokens: padding between would tell them apart.
        reading=Reading(features=features), generate=inputs if seq2seq or given is between else True,
        alone=None if given is between else alone,
    )  # fmt: skip


def retrieval(name: str, model: str, token: int | None, matching: bool = False) -> Case:
    """Similarities, or match logits, or the vectors of the classes that hold one side alone."""
    lead = QUERIES if token is not None and model == RETRIEVE else 0

    def given(config: Any) -> Tensors:
        words = randomise.ids("texts", (2, 8), 3, 60)
        mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
        texts = {"input_ids": torch.cat((torch.zeros(2, lead, dtype=torch.int64), words), 1),
                 "attention_mask": torch.cat((torch.ones(2, lead, dtype=torch.int64), mask), 1)}  # fmt: skip
        pixels = randomise.values("pixels", (2, 3, 28, 28))
        found: Tensors = {**({} if "Text" in model and model != RETRIEVE else {"pixel_values": pixels}),
                          **({} if "Vision" in model else texts)}  # fmt: skip
        return {**found, "use_image_text_matching_head": True} if matching else found

    def vectors(oracle: Any, tensors: Tensors) -> dict[str, Any]:
        outputs = oracle(**tensors)
        read = [side for side, name in (("image", "pixel_values"), ("text", "input_ids")) if name in tensors]
        return {side: library.output(outputs, f"{side}_embeds") for side in read}

    logits = library.field("logits_per_image") if model == RETRIEVE else None
    return hugging_case(
        name, model,
        lambda t: tiny(t.Blip2Config, {}, {}, {"use_qformer_text_input": True}, image_token_index=token,
                       image_text_hidden_size=14),
        given, reading=Reading(logits=logits, features=None if matching else vectors),
    )  # fmt: skip


RENAMES = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
    ("vision_model.encoder.layers", "visual_encoder.blocks"), ("layer_norm1", "norm1"), ("layer_norm2", "norm2"),
    ("self_attn.qkv", "attn.qkv"), ("self_attn.projection", "attn.proj"), ("vision_model.post_layernorm", "ln_vision"),
    ("qformer.layernorm", "Qformer.bert.embeddings.LayerNorm"), ("qformer.embeddings.", "Qformer.bert.embeddings."),
    ("embeddings.layernorm", "embeddings.LayerNorm"), ("attention.attention", "attention.self"),
    ("qformer.encoder", "Qformer.bert.encoder"),
)  # fmt: skip


def official_names(state: dict[str, Any], width: int, more: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The hub's names in those of the official files; the biases of keys, zeros there, do not exist."""
    found: dict[str, Any] = {}
    for name, x in state.items():
        for old, new in (*RENAMES, *more):
            name = name if name.startswith(("opt_model", "t5_model", "llm_model")) else name.replace(old, new)
        name = name.replace("crossattention.attention.", "crossattention.self.")
        if name.endswith("attn.qkv.bias"):
            start = name.removesuffix("qkv.bias")
            found |= {f"{start}q_bias": x[:width], f"{start}v_bias": x[2 * width :]}
        else:
            found[name] = x
    return found


def official(oracle: Any) -> Any:
    """The library's class as the official code computes: no biases of keys, eps 1e-5 in the norm behind the encoder."""
    library.part(oracle, "vision_model.post_layernorm").eps = 1e-5
    for layer in library.part(oracle, "vision_model.encoder.layers"):
        bias = library.part(layer, "self_attn.qkv").bias.data
        bias.chunk(3)[1].zero_()
    return oracle


def lavis(name: str, text: dict[str, Any], config: bool, projection: str, language: str) -> Case:
    """Everything in one official file.  config: beside a config.json; else sizes are read off the shapes."""

    def make(folder: Path) -> Expected:
        sizes: Any = {} if config else {"hidden_size": 88}
        heads: Any = {} if config else {"hidden_size": 64}
        vision = {"num_attention_heads": 4} if config else {"num_attention_heads": 1}
        asked = {"num_attention_heads": 4} if config else {"num_attention_heads": 1}
        with library.quiet() as transformers, torch.no_grad():
            settings = tiny(transformers.Blip2Config, text, {**vision, **sizes}, {**asked, **heads})
            oracle = official(library.built(transformers, GENERATE, settings))
            given = answered(settings) if text.get("model_type") == "t5" else inputs(settings)
            logits = library.logits(oracle, given)
            more = (("language_projection", projection), ("language_model", language))
            state = official_names(oracle.state_dict(), settings.vision_config.hidden_size, more)
            store(state, folder / "model.pth", "model")
            if config:
                said = {**library.settings(settings), "model_type": "lavis-blip2", "architectures": None}
                (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
        return Expected(inputs=given, logits=logits)

    return Case(name=name, make=make, file="" if config else "model.pth", needs="transformers")


def first_stage(name: str, config: bool) -> Case:
    """An official file of the first stage, with its captioning head and temperature.  config: as for `lavis`."""

    def make(folder: Path) -> Expected:
        vision = {"num_attention_heads": 4} if config else {"num_attention_heads": 1, "hidden_size": 88}
        asked = {"num_attention_heads": 4} if config else {"num_attention_heads": 1, "hidden_size": 64}
        with library.quiet() as transformers, torch.no_grad():
            settings = tiny(transformers.Blip2Config, {}, vision, {**asked, "use_qformer_text_input": True},
                            image_token_index=None, image_text_hidden_size=14)  # fmt: skip
            oracle = official(library.built(transformers, RETRIEVE, settings))
            given = {"input_ids": randomise.ids("texts", (2, 8), 3, 60),
                     "pixel_values": randomise.values("pixels", (2, 3, 28, 28)),
                     "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3])}  # fmt: skip
            logits = library.field("logits_per_image")(oracle, given)
            heads = (("vision_projection", "vision_proj"), ("text_projection", "text_proj"))
            tensors = oracle.state_dict()
            words = {f"Qformer.bert.{name}": x for name, x in tensors.items() if name.startswith("embeddings.")}
            rest = {name: x for name, x in tensors.items() if not name.startswith("embeddings.")}
            state = {**official_names(rest, settings.vision_config.hidden_size, heads), **words,
                     "temp": torch.tensor(0.07), "Qformer.cls.predictions.bias": torch.zeros(60)}  # fmt: skip
            store(state, folder / "model.pth", "model")
            if config:
                said = {**library.settings(settings), "model_type": "lavis-blip2-qformer", "architectures": None}
                (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
        return Expected(inputs=given, logits=logits)

    return Case(name=name, make=make, file="" if config else "model.pth", needs="transformers")


def untied_size(variant: Any, config: Callable[[Any], Any]) -> Size:
    """A published size; T5's head, which transformers 5 ties until a checkpoint unties it, has weights of its own.

    config(transformers) -> the class of its config.
    """
    model = variant.config["architectures"][0]
    t5 = variant.config.get("text_config", {}).get("model_type") == "t5"
    head = "language_model.lm_head" if t5 else ""
    return hugging_size(variant.name, model, lambda t: config(t)(**variant.config), head)


def small(text: dict[str, Any], vocabulary: int, image: int) -> dict[str, Any]:
    """A config.json for training checks and demonstrations: 4 queries that read pictures of 56 x 56."""
    return {
        "num_query_tokens": 4, "image_token_index": image,
        "vision_config": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "image_size": 56, "patch_size": 14},
        "qformer_config": {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                           "intermediate_size": 96, "vocab_size": 60},
        "text_config": {**text, "vocab_size": vocabulary},
    }  # fmt: skip


SMALL_OPT = {"model_type": "opt", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128,
             "max_position_embeddings": 256}  # fmt: skip
SMALL_T5 = {"model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0}  # fmt: skip


def small_retrieval() -> dict[str, Any]:
    """A config.json of the first stage for its training check."""
    config = small(SMALL_OPT, 40, 31)
    config["qformer_config"] |= {"use_qformer_text_input": True}
    return {**config, "model_type": "blip-2", "architectures": [RETRIEVE], "image_token_index": None}


def batches(step: int) -> dict[str, Any]:
    """Pictures with their names, to be compared and to be written letter by letter."""
    chosen, names = rows(step, 8, 16), real.captions()
    texts = [[1, *letters(names[i]), 2] for i in chosen]
    ids, mask = table(texts, 0), table([[1] * len(row) for row in texts], 0)
    written, labels = ids.clone(), ids.masked_fill(mask == 0, -100)
    written[:, 0], labels[:, 0] = 3 + len(LETTERS), -100  # another first token says that the text is to be written
    pixels = real.pixels(56, count=16)[chosen]
    return {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "labels": labels,
            "decoder_input_ids": written, "decoder_attention_mask": mask}  # fmt: skip


def representing() -> TrainingCheck:
    """The first stage: pictures and their names near each other, judged to match, and written."""
    torch.manual_seed(0)
    model = SYSTEM.formats[1].model_spec(small_retrieval()).build()
    return TrainingCheck(model=model, batches=batches, steps=120, lr=1e-3)


def generating() -> TrainingCheck:
    """The second stage: OPT names the pictures, letter by letter; it and the encoder are frozen."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(SMALL_OPT, 40, 31)).build()
    return caption_check(model, [31] * 4 + [32], side=56, steps=100)


def answered_pictures(layout: int, weights: str, **named: Any) -> int:
    """A tiny BLIP-2 with Flan-T5 in the layout of that number, trained on eight pictures: how many `chat` names.

    named: model_type and architectures of its config; weights: its weights file.
    """
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<pad>", "</s>", "<image>"], eos="</s>", pad="<pad>")
        config = {**small({**SMALL_T5, "eos_token_id": 1}, size, 2), **named}
        return train_fresh_and_chat(folder, SYSTEM.formats[layout], config, weights, steps=300,
                                    preprocessor_config={"size": {"height": 56, "width": 56}},
                                    generation_config={"eos_token_id": 1})  # fmt: skip


def headline() -> HeadlineResult:
    """A tiny BLIP-2 with Flan-T5 is trained on eight real pictures and asked about each by `chat`."""
    right = answered_pictures(0, "model.safetensors", model_type="blip-2", architectures=[GENERATE])
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 pictures: chat names {right} of them through 4 "
        "queries (published weights are fetched from the hub by id and were not at hand)",
    )


def official_headline() -> HeadlineResult:
    """The same in one file of LAVIS beside a config.json."""
    right = answered_pictures(2, "model.pth", model_type="lavis-blip2")
    return HeadlineResult(ok=right == 8, evidence=f"chat names {right} of 8 pictures")


def paired(layout: int, weights: str, **named: Any) -> HeadlineResult:
    """A tiny first stage in the layout of that number, trained on eight pictures and their names, loaded, and given
    all pairs: how many pictures are nearest to their own name.  It has no processor, so `logits` is asked."""
    torch.manual_seed(0)
    format, config = SYSTEM.formats[layout], {**small_retrieval(), **named}
    model_spec = format.model_spec(config)
    training = TrainingCheck(model=model_spec.build(), batches=batches, lr=1e-3)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_config(folder, config=config)
        write_layout(folder / weights, learned(training, SYSTEM.recipe[0].objective, steps=150), format, model_spec)
        model = pm.load(folder)
    shown = {name: batches(0)[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    right = int((model.logits(**shown).argmax(1) == torch.arange(8)).sum())
    return HeadlineResult(ok=right >= 7, evidence=f"{right} of 8 pictures are nearest to their own name by logits")


T5 = {"model_type": "t5"}
EVIDENCE = Evidence(
    oracle="transformers Blip2ForConditionalGeneration and Blip2ForImageTextRetrieval",
    cases=(
        case("opt", {}),
        case("opt, padding between picture and text", {}, given=between),
        case("llama, padding between picture and text", {"model_type": "llama"}, given=between),
        case("opt of 350m's order, odd widths, one layer", {"do_layer_norm_before": False, "num_hidden_layers": 1,
             "hidden_size": 33, "num_attention_heads": 3, "tie_word_embeddings": False},
             {"hidden_size": 30, "num_attention_heads": 3, "patch_size": 7, "num_hidden_layers": 1, "qkv_bias": False},
             {"hidden_size": 22, "num_attention_heads": 2, "num_hidden_layers": 1}, num_query_tokens=3),
        case("opt without biases and norm weights, cross-attention every third block",
             {"enable_bias": False, "layer_norm_elementwise_affine": False, "_remove_final_layer_norm": True},
             {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-4},
             {"cross_attention_frequency": 3, "num_hidden_layers": 5, "use_qformer_text_input": True}),
        case("flan-t5", {**T5, "tie_word_embeddings": False, "dense_act_fn": "gelu"}),
        case("t5, tied, relu, odd buckets", {**T5, "feed_forward_proj": "relu", "relative_attention_num_buckets": 9,
             "relative_attention_max_distance": 11, "d_kv": 7}),
        retrieval("similarity", RETRIEVE, IMAGE),
        retrieval("similarity without placeholders", RETRIEVE, None),
        retrieval("matching", RETRIEVE, IMAGE, matching=True),
        retrieval("matching without placeholders", RETRIEVE, None, matching=True),
        retrieval("pictures alone", "Blip2VisionModelWithProjection", None),
        retrieval("texts alone", "Blip2TextModelWithProjection", None),
        lavis("official file, OPT", {}, True, "opt_proj", "opt_model"),
        lavis("official file, Flan-T5", {**T5, "tie_word_embeddings": False}, True, "t5_proj", "t5_model"),
        lavis("official file without config, Flan-T5", {**T5, "tie_word_embeddings": False, "dense_act_fn": "gelu"},
              False, "t5_proj", "t5_model"),
        first_stage("official file of the first stage", True),
        first_stage("official file of the first stage without config", False),
    ),
    published=tuple(untied_size(each, lambda t: t.Blip2Config) for each in SYSTEM.variants),
    training_checks={"represent": representing, "generate": generating},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: lambda: paired(1, "model.safetensors"),
        SYSTEM.formats[2].name: official_headline,
        SYSTEM.formats[3].name: lambda: paired(3, "model.pth", model_type="lavis-blip2-qformer", architectures=None),
    },
)  # fmt: skip
