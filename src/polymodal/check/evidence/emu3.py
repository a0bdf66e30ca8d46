"""Emu3 against transformers: pictures of unequal size, codes anywhere in the vocabulary, the decoder alone."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.codec_and_decoder import FIRST, codec_alone, codec_and_decoder
from polymodal.check.demo import QUESTION, Checkpoint, byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import _text
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Tensors, TrainingCheck
from polymodal.check.training import caption_batch, label_all_tokens, learned, letters, rows, table
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.image_generation import PictureFormat, paint
from polymodal.systems import LanguageModeling, SumOfSources
from polymodal.systems.emu3 import SYSTEM
from polymodal.systems.emu3.checkpoint import BEGIN, BOS, EOS, OPEN, ROW_END, TAIL
from polymodal.systems.emu3.picture_size import AnySizeTransform, padded

MODEL = "Emu3ForConditionalGeneration"
IMAGE, END, CODES = 9, 8, 24
SIZES = ((8, 12), (12, 8), (8, 8))  # of the three pictures, padded to 12 x 12


def tiny(transformers: Any, first: int, codec: dict[str, Any], tied: bool, **text: Any) -> Any:
    """An Emu3Config of test size; code k has the id `first - k`, downwards, so that nothing can count."""
    codec = {"codebook_size": CODES, "base_channels": 32, "channel_multiplier": [1, 2], "num_res_blocks": 1,
             "attn_resolutions": [1], "hidden_size": 64, **codec}  # fmt: skip
    text = {"vocab_size": 90, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, **text}  # fmt: skip
    names = {f"<|visual token {k:06d}|>": first - k for k in range(codec["codebook_size"])}
    return transformers.Emu3Config(vocabulary_map={**names, "<image>": IMAGE, ROW_END: END},
                                   vq_config=codec, text_config=text, tie_word_embeddings=tied)  # fmt: skip


def inputs(config: Any) -> Tensors:
    """Two rows of unequal length padded on the left: one picture between texts; two pictures, the last at the end."""
    factor = 1 << len(config.vq_config.channel_multiplier) - 1
    pictures = [[IMAGE] * (height // factor * (width // factor + 1)) for height, width in SIZES]
    words = randomise.ids("words", (40,), 10, config.text_config.vocab_size).tolist()
    rows = [words[:5] + pictures[0] + words[5:9], words[9:12] + pictures[1] + words[12:19] + pictures[2]]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (3, 3, 12, 12)),
            "image_sizes": torch.tensor(SIZES)}  # fmt: skip


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding and with its own pictures."""
    rows = []
    for row, some in ((0, slice(0, 1)), (1, slice(1, 3))):
        ids = given["input_ids"][row][given["attention_mask"][row].bool()][None]
        rows.append((row, {"input_ids": ids, **{name: given[name][some] for name in ("pixel_values", "image_sizes")}}))
    return rows


def features(oracle: Any, given: Tensors) -> dict[str, Any]:
    named = {name: given[name] for name in ("pixel_values", "image_sizes")}
    return {"image": list(library.features(oracle, "image", **named))}


def case(name: str, first: int = 60, codec: dict[str, Any] | None = None, tied: bool = False, **text: Any) -> Case:
    return hugging_case(name, MODEL, lambda t: tiny(t, first, codec or {}, tied, **text), inputs,
                        reading=Reading(features=features), generate=True, alone=alone)  # fmt: skip


def decoder(name: str, **text: Any) -> Case:
    """The language model alone."""
    small = {"vocab_size": 83, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, **text}  # fmt: skip
    return hugging_case(name, "Emu3ForCausalLM", lambda t: t.Emu3TextConfig(**small), _text.inputs,
                        generate=True, alone=_text.alone)  # fmt: skip


SPECIALS = ["<pad>", "<image>", ROW_END, BOS, EOS, BEGIN, OPEN, *TAIL]
SIDE, GRID = 16, 4  # pixels and codes of a picture of the training checks, along each side


CODEC = {"codebook_size": CODES, "base_channels": 32, "channel_multiplier": [1, 1, 1], "num_res_blocks": 1,
         "attn_resolutions": [2], "hidden_size": 32}  # fmt: skip


def small(size: int, placeholder: int, row_end: int) -> dict[str, Any]:
    """A config.json for training checks and the demonstration: 24 codes behind `size` ids of text."""
    names = {f"<|visual token {k:06d}|>": size + k for k in range(CODES)}
    text = {"vocab_size": size + CODES, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
    return {"model_type": "emu3", "architectures": [MODEL], "vq_config": CODEC, "text_config": text,
            "vocabulary_map": {**names, "<image>": placeholder, ROW_END: row_end}}  # fmt: skip


def spread(model: Any) -> None:
    spread_codes(model.encoders["image"])


@torch.no_grad()
def spread_codes(codec: Any) -> None:
    """Fresh weights give every position the same code; let the codebook be latents of real pictures."""
    pixels = real.pixels(SIDE)[:, None].expand(-1, codec.config.time, -1, -1, -1)
    count = len(pixels)
    latents = codec.encoder(pixels.flatten(0, 1)).unflatten(0, (count, -1)).transpose(1, 2)
    latents = codec.quant_conv(codec.time_down(latents)).movedim(1, -1).flatten(0, 3)
    codec.codebook.embedding.weight.copy_(latents[:: len(latents) // CODES][:CODES])


def training_check(*, answers: bool) -> TrainingCheck:
    """Pictures as ids and their names, letter by letter; answers: only the latter have labels."""
    torch.manual_seed(0)
    model = SYSTEM.formats[0].model_spec(small(40, 31, 32)).build()
    spread(model)
    pixels, names = real.pixels(SIDE), real.captions()

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 8)
        made = caption_batch([names[i] for i in chosen], [33, *[31] * (GRID * (GRID + 1)), 34])
        return {**(made if answers else label_all_tokens(made)), **padded([pixels[i] for i in chosen])}

    return TrainingCheck(model=model, batches=batches)


def preferring() -> TrainingCheck:
    """Of two pictures behind a name, letter by letter, the right one is the better."""
    check = training_check(answers=False)
    pixels, names = real.pixels(SIDE), real.captions()
    picture = [33, *[31] * (GRID * (GRID + 1)), 34]

    def batches(step: int) -> dict[str, Any]:
        chosen = rows(step, 8)
        texts = [letters(names[i]) for i in chosen]
        ids, mask = table([[*text, *picture] for text in texts], 0), table([[1] * len(text) for text in texts], 0)
        mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]))
        labels = ids.masked_fill((mask == 1) | (ids == 0), -100)
        made = {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}
        return {
            "chosen": {**made, **padded([pixels[i] for i in chosen])},
            "rejected": {**made, **padded([pixels[(i + 1) % len(pixels)] for i in chosen])},
        }

    return replace(check, batches=batches)


def headline(count: int = 4) -> HeadlineResult:
    """A tiny Emu3 learns four real pictures both ways in its published folder: it paints them from their names, id by
    id as its codec spells them, and names them by `chat`."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, SPECIALS, bos=BOS, eos=EOS, pad="<pad>")
        config = small(size, SPECIALS.index("<image>"), SPECIALS.index(ROW_END))
        bounds = {"min_pixels": SIDE * SIDE, "max_pixels": SIDE * SIDE, "spatial_factor": 4}
        write_config(folder, config=config, preprocessor_config=bounds, generation_config={"eos_token_id": 4})
        model_spec = SYSTEM.formats[0].model_spec(config)
        module = model_spec.build()
        spread(module)
        write_weights(folder, module, model_spec.keys[0])
        model = pm.load(folder)
        teach(model, count)
        write_weights(folder, model.module.eval(), model_spec.keys[0])
        named, painted = asked(pm.load(folder), count)
    seen = f"tiny weights trained on {count} pictures both ways: {painted} painted exactly from their names"
    return HeadlineResult(
        ok=named == painted == count, evidence=f"{seen}, {named} named (published weights were not at hand)"
    )


def layout_of(tokenizer: Any) -> PictureFormat:
    return PictureFormat.of(tokenizer, BOS, BEGIN, OPEN, (*TAIL, EOS), "<pad>")


def teach(model: Any, count: int) -> None:
    """Train on pictures -> names and names -> pictures, through the model's own processor and picture format."""
    samples = real.pictures()[:count]
    talks = [[Message(role="user", parts=(pm.image(picture), Text(QUESTION))),
              Message(role="assistant", parts=(Text(name),))] for picture, name in samples]  # fmt: skip
    understood, module = model.processor(talks), model.module.train()
    transform, tokenizer = AnySizeTransform(min_pixels=SIDE**2, max_pixels=SIDE**2, factor=4), model.processor.tokenizer
    ids = module.tokens("image", padded([transform(picture) for picture, _ in samples]))
    sequences = [[*layout_of(tokenizer).prompt(tokenizer, name, (GRID, GRID)), *row.tolist()]
             for (_, name), row in zip(samples, ids, strict=True)]  # fmt: skip
    rows_of = {str(number): torch.tensor([row]) for number, row in enumerate(sequences)}
    batch = {"names": understood, **{name: {"input_ids": row, "labels": row} for name, row in rows_of.items()}}
    both = SumOfSources(objective=LanguageModeling(), weights={"names": 1.0, **dict.fromkeys(rows_of, 1 / count)})
    lesson = TrainingCheck(model=module, batches=lambda step: batch, steps=120)
    learned(lesson, both, train=("backbone",))


def asked(model: Any, count: int) -> tuple[int, int]:
    """How many pictures are named by chat, and how many are painted id by id."""
    samples, tokenizer = real.pictures()[:count], model.processor.tokenizer
    named = sum(model.chat(pm.image(p), QUESTION, max_tokens=40).text.strip() == name for p, name in samples)
    layout, size = layout_of(tokenizer), (GRID, GRID)
    prompts = [layout.prompt(tokenizer, name, size) for _, name in samples]
    negatives = [layout.prompt(tokenizer, "", size)] * count
    found = paint(model.module, prompts, negatives, [size] * count, layout, scale=1.5, options=SamplingOptions())
    transform = AnySizeTransform(min_pixels=SIDE**2, max_pixels=SIDE**2, factor=4)
    codec = model.module.encoders["image"]
    with torch.no_grad():
        wanted = codec.decode(codec.encode(padded([transform(p) for p, _ in samples])["pixel_values"]))
    return named, sum(bool(torch.allclose(a, b, atol=1e-4)) for a, b in zip(found, wanted, strict=True))


@cache
def apart(decoder: int, codec: int, *named: str) -> HeadlineResult:
    """Codec and decoder as two repositories, in the layouts of those numbers; named: their model_types."""
    text = {**small(FIRST, 0, 0)["text_config"], "model_type": named[0], "architectures": ["Emu3ForCausalLM"]}
    codes = {**CODEC, "model_type": named[1]}
    with tempfile.TemporaryDirectory() as directory:
        return codec_and_decoder(
            Checkpoint(format=SYSTEM.formats[codec], config=codes, file="model.safetensors", written=codes,
                       prepare=spread_codes),
            Checkpoint(format=SYSTEM.formats[decoder], config=text, file="model.safetensors", written=text),
            SIDE, Path(directory),
        )  # fmt: skip


OFFICIAL = {"model_type": "Emu3", "architectures": ["Emu3ForCausalLM"], "rope_parameters": None, "rope_theta": 1e6}


def configured(config: Any, transformers: Any) -> Any:
    return transformers.Emu3Config(**config)


EVIDENCE = Evidence(
    oracle=f"transformers {MODEL}",
    cases=(
        case("grouped heads"),
        case("one layer, one key head, tied, still frames only", codec={"temporal_downsample_factor": 1}, tied=True,
             num_hidden_layers=1, num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 99.0}),
        case("other codec, activation and rope", 88, {"channel_multiplier": [2, 1, 2], "attn_resolutions": [0],
             "codebook_size": 70, "num_res_blocks": 2, "num_attention_heads": 4}, hidden_act="gelu",
             rope_parameters={"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0}),
        decoder("decoder alone"),
        _text.respelled(decoder("decoder of the official repository", num_hidden_layers=1), OFFICIAL),
    ),
    published=tuple(hugging_size(each.name, MODEL, partial(configured, each.config)) for each in SYSTEM.variants),
    training_checks={"pretrain": partial(training_check, answers=False),
                     "generate": partial(training_check, answers=False), "chat": partial(training_check, answers=True),
                     "prefer": preferring},
    headline=headline,
    layouts={
        SYSTEM.formats[1].name: lambda: apart(1, 3, "emu3_text_model", "emu3_vqgan"),
        SYSTEM.formats[2].name: lambda: apart(2, 4, "Emu3", "Emu3VisionVQ"),
        SYSTEM.formats[3].name: lambda: codec_alone(apart(1, 3, "emu3_text_model", "emu3_vqgan")),
        SYSTEM.formats[4].name: lambda: codec_alone(apart(2, 4, "Emu3", "Emu3VisionVQ")),
    },
)  # fmt: skip
