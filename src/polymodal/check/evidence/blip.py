"""BLIP against transformers and its official code: captions, answers, matches and the joint space.

The library's classes for answers and matches give no `logits`; the decoder's own and the match scores are read instead.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import polymodal as pm
from polymodal.check import library, randomise, real
from polymodal.check.alignment import CLS, SEP, alignment_check, captioning_check, pairs
from polymodal.check.alignment import name_batch as names_of
from polymodal.check.demo import Checkpoint, write_config, write_weights
from polymodal.check.fixture import fixture_case
from polymodal.check.hugging import Reading, hugging_case, hugging_size
from polymodal.check.record import Case, Evidence, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import learned
from polymodal.systems import LanguageModeling, Variant
from polymodal.systems.blip import SYSTEM
from polymodal.systems.blip.checkpoint import ANSWER, CAPTION, JOINT, MATCH
from polymodal.train.momentum import MomentumAlignment

Settings = dict[str, Any] | None
NEVER = 10_000  # an end id beyond the vocabulary: all 16 steps are compared


def tiny(transformers: Any, text: dict[str, Any], vision: dict[str, Any], **more: Any) -> Any:
    """A BlipConfig of test size."""
    vision = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
              "image_size": 24, "patch_size": 8, **vision}  # fmt: skip
    text = {"vocab_size": 61, "hidden_size": 36, "intermediate_size": 52, "num_hidden_layers": 3, "bos_token_id": 57,
            "num_attention_heads": 3, "max_position_embeddings": 40, "sep_token_id": NEVER, **text}  # fmt: skip
    return transformers.BlipConfig(text_config=text, vision_config=vision, **more)


def inputs(config: Any) -> Tensors:
    """Three pictures and texts of unequal length, padded on the right as its tokenizer pads."""
    side = config.vision_config.image_size
    mask = torch.tensor([[1] * n + [0] * (7 - n) for n in (7, 4, 2)])
    ids = randomise.ids("words", (3, 7), 4, 50) * mask
    pixels = randomise.values("pixels", (3, 3, side, side))
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def asked(config: Any) -> Tensors:
    """Questions of one length (the library's decoder forgets their mask), answers of unequal length."""
    answer = randomise.ids("answer", (3, 5), 4, 50)
    given = {**inputs(config), "input_ids": randomise.ids("question", (3, 7), 4, 50)}
    return {**given, "attention_mask": torch.ones(3, 7, dtype=torch.long), "decoder_input_ids": answer}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row by itself, without padding."""
    rows = []
    for row in range(3):
        real = given["attention_mask"][row].bool()
        one = {name: value[row : row + 1] for name, value in given.items()}
        rows.append((row, {**one, "input_ids": one["input_ids"][:, real], "attention_mask": None}))
    return rows


def written(oracle: Any, given: Tensors, options: dict[str, Any]) -> Tensor:
    """16 greedy steps; these classes pass their own end and padding ids, and write into the ids they are given."""
    copies = {name: value.clone() for name, value in given.items()}
    return library.generate(oracle, copies, options)


def looked(oracle: Any, given: Tensors) -> dict[str, Tensor]:
    """What the decoder of captions reads."""
    return {"image": seen(oracle, given)}


def seen(oracle: Any, given: Tensors) -> Tensor:
    return library.states(library.part(oracle, "vision_model")(given["pixel_values"]))


def joint(oracle: Any, given: Tensors) -> dict[str, Tensor]:
    text = {name: given[name] for name in ("input_ids", "attention_mask")}
    return {"image": library.features(oracle, "image", pixel_values=given["pixel_values"]),
            "text": library.features(oracle, "text", **text)}  # fmt: skip


def projected(oracle: Any, given: Tensors) -> dict[str, Tensor]:
    """Joint vectors of the match model."""
    text = library.states(library.part(oracle, "text_encoder")(given["input_ids"], given["attention_mask"]))
    return {"image": library.part(oracle, "vision_proj")(seen(oracle, given)[:, 0]),
            "text": library.part(oracle, "text_proj")(text[:, 0])}  # fmt: skip


def answers(name: str, **more: Any) -> Case:
    """The question model: its decoder's scores are caught on the way, since its output leaves them out."""

    def logits(oracle: Any, given: Tensors) -> Tensor:
        return library.output(library.caught(oracle, given, "text_decoder"), "logits")

    def features(oracle: Any, given: Tensors) -> dict[str, Tensor]:
        image, reader = seen(oracle, given), library.part(oracle, "text_encoder")
        read = reader(given["input_ids"], given["attention_mask"], encoder_hidden_states=image)
        return {"image": image, "text": library.states(read)}

    return hugging_case(name, ANSWER, lambda t: tiny(t, {}, {"hidden_size": 36, "num_attention_heads": 3}, **more),
                        asked, generate=inputs,
                        reading=Reading(logits=logits, features=features, written=written))  # fmt: skip


def captions(name: str, text: Settings = None, vision: Settings = None, **more: Any) -> Case:
    return hugging_case(name, CAPTION, lambda t: tiny(t, text or {}, vision or {}, **more), inputs, alone=alone,
                        reading=Reading(features=looked, written=written), generate=True)  # fmt: skip


def matches(name: str, **more: Any) -> Case:
    return hugging_case(name, MATCH, lambda t: tiny(t, {}, {}, **more), inputs, alone=alone,
                        reading=Reading(logits=library.field("itm_score"), features=projected))  # fmt: skip


def size(variant: Variant) -> Size:
    assert variant.config is not None
    config = variant.config
    return hugging_size(variant.name, config["architectures"][0], lambda t: t.BlipConfig(**config))


def small(kind: str) -> dict[str, Any]:
    """A config.json for training checks: 16 patches a picture of 64 x 64."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**shape, "vocab_size": 32, "max_position_embeddings": 48, "bos_token_id": CLS, "sep_token_id": SEP}
    return {"model_type": "blip", "architectures": [kind], "image_text_hidden_size": 32, "text_config": text,
            "vision_config": {**shape, "image_size": 64, "patch_size": 16}}  # fmt: skip


def fresh(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SYSTEM.formats[0].model_spec(small(kind)).build()


def alignment() -> TrainingCheck:
    return alignment_check(fresh(MATCH), 64)


def captioner() -> TrainingCheck:
    return captioning_check(fresh(CAPTION), 64)


def vqa() -> TrainingCheck:
    return captioning_check(fresh(ANSWER), 64, question=True)


def saved(model: nn.Module, kind: str, folder: Path) -> Any:
    """The module after a published folder."""
    folder.mkdir()
    write_config(folder, config=small(kind))
    write_weights(folder, model, SYSTEM.formats[0].model_spec(small(kind)).keys[0])
    return pm.load(folder)


def official_ids(ids: Tensor) -> Tensor:
    """First and last token as official files have them."""
    return ids.masked_fill(ids == CLS, 30522).masked_fill(ids == SEP, 102)


def official_headline() -> HeadlineResult:
    """The captioner in an official file, which says its sizes by its shapes, writes the names."""
    config = {**small(CAPTION), "model_type": "official-blip", "temperature": False}
    heads: dict[str, Any] = {"num_attention_heads": 1}
    config["vision_config"] |= {**heads, "layer_norm_eps": 1e-6}
    for name in ("bos_token_id", "sep_token_id"):
        del config["text_config"][name]
    config["text_config"] |= {**heads, "vocab_size": 30524, "question_width": 64}
    names = official_ids(names_of(list(range(8)))["input_ids"])

    def trained(module: nn.Module) -> nn.Module:
        check = captioning_check(module, 64, count=8, steps=150)
        spelled = {"input_ids": official_ids, "labels": official_ids}
        batch = {name: spelled.get(name, lambda x: x)(value) for name, value in check.batches(0).items()}
        return learned(replace(check, batches=lambda step: batch), LanguageModeling(label_smoothing=0.1))

    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Checkpoint(format=SYSTEM.formats[1], config=config, file="model.pth")
        writer = checkpoint.stored(Path(directory), trained)
        ids = writer.generate(pixel_values=real.pixels(64)[:8], max_new_tokens=40)
    right = sum(row[row != 0].tolist() == name[name != 0].tolist() for row, name in zip(ids, names, strict=True))
    return HeadlineResult(ok=right >= 6, evidence=f"the captioner writes {right} of 8 names")


def headline() -> HeadlineResult:
    """CapFilt on eight real pictures: a captioner writes a name for each, a filter keeps true pairs and drops wrong."""
    filtered = TrainingCheck(model=fresh(MATCH), batches=pairs(64, 8), steps=200, lr=1e-3)
    named = captioning_check(fresh(CAPTION), 64, count=8, steps=150)
    pixels, names = real.pixels(64)[:8], names_of(list(range(8)))
    with tempfile.TemporaryDirectory() as directory:
        writer = saved(learned(named, LanguageModeling(label_smoothing=0.1)), CAPTION, Path(directory) / "captioner")
        judge = saved(learned(filtered, MomentumAlignment(alpha=0.0, queue=8)), MATCH, Path(directory) / "filter")
        ids = writer.generate(pixel_values=pixels, max_new_tokens=40)
        true = judge.logits(pixel_values=pixels, **names).argmax(1)
        false = judge.logits(pixel_values=pixels.roll(1, 0), **names).argmax(1)
    words = [row[row != 0].tolist() for row in ids]
    right = sum(row == wanted[wanted != 0].tolist() for row, wanted in zip(words, names["input_ids"], strict=True))
    kept, dropped = int(true.sum()), int((1 - false).sum())
    return HeadlineResult(
        ok=right >= 6 and kept >= 6 and dropped >= 6,
        evidence=f"tiny weights trained on 8 pictures: the "
        f"captioner writes {right} names, the filter keeps {kept} true and drops {dropped} wrong pairs of 8",
    )


EVIDENCE = Evidence(
    oracle="transformers Blip classes for captions, answers, matches, joint space; salesforce/BLIP 056a169",
    cases=(
        captions("captions, prompts of unequal length"),
        captions("captions, one layer, untied head, other patches and activation", {"num_hidden_layers": 1,
                 "tie_word_embeddings": False, "hidden_act": "gelu_new"}, {"patch_size": 12, "hidden_act": "relu"},
                 tie_word_embeddings=False),
        hugging_case("captions without a prompt", CAPTION, lambda t: tiny(t, {}, {}), inputs,
                     generate=lambda config: {"pixel_values": inputs(config)["pixel_values"]},
                     reading=Reading(written=written)),
        answers("answers to questions of unequal length"),
        matches("matches of pictures and texts"),
        hugging_case("cosines of the match model", MATCH,
                     lambda t: tiny(t, {}, {}, image_text_hidden_size=20),
                     lambda config: {**inputs(config), "use_itm_head": False},
                     reading=Reading(logits=library.field("itm_score"))),
        fixture_case("official file: captions", "blip_official_caption"),
        fixture_case("official file: answers, questions of unequal length", "blip_official_answer"),
        fixture_case("official file: matches", "blip_official_match"),
        fixture_case("official file: pairs of pictures, mean below and linear above", "blip_official_pair"),
        hugging_case("joint space", JOINT, lambda t: tiny(t, {}, {}, projection_dim=28), inputs,
                     reading=Reading(logits=library.field("logits_per_image"), features=joint)),
    ),
    published=tuple(size(each) for each in SYSTEM.variants),
    training_checks={"pretrain": alignment, "captioner": captioner, "filter": alignment, "vqa": vqa},
    headline=headline,
    layouts={SYSTEM.formats[1].name: official_headline},
    exceptions=(
        "transformers 5.23 and 5.24 forget a question's mask in the answer decoder's cross-attention; the official "
        "code and we apply it in logits and ranking; none of the three does when it writes",
    ),
)  # fmt: skip
