"""Cases of the text-only systems, whose oracle is a causal language model of transformers at test size."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import byte_tokenizer, train_on_conversations, write_config, write_weights, writer
from polymodal.check.hugging import hugging_case, hugging_size
from polymodal.check.record import Case, Expected, HeadlineResult, Size, Tensors, TrainingCheck
from polymodal.check.training import caption_batch, rows
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.systems import System

LLAMA = {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
         "vocab_size": 83, "max_position_embeddings": 64}  # fmt: skip
BLOOM = {"hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 83, "pad_token_id": 3}


def inputs(config: Any) -> Tensors:
    """Three rows of unequal length padded on the left, one of them of one token."""
    words = randomise.ids("words", (26,), 4, config.vocab_size).tolist()
    rows = [words[:14], words[14:25], words[25:]]
    ids = torch.tensor([[0] * (14 - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[0] * (14 - len(r)) + [1] * len(r) for r in rows])}


def alone(config: Any, given: Tensors) -> list[tuple[int, Tensors]]:
    """Each row without padding."""
    masks = given["attention_mask"].bool()
    return [(i, {"input_ids": given["input_ids"][i][mask][None]}) for i, mask in enumerate(masks)]


def case(name: str, family: str, system: str = "", rows: bool = True, steps: bool = True, **changes: Any) -> Case:
    """family: "Llama", "Bloom", "Mistral" or "Qwen2".  system: the system that `pm.load` reads the folder as.

    rows, steps: compare rows alone and cached steps too; not where the frequencies depend on the longest row.
    """
    base = BLOOM if family == "Bloom" else LLAMA
    made = hugging_case(
        name,
        f"{family}ForCausalLM",
        lambda transformers: getattr(transformers, f"{family}Config")(**{**base, **changes}),
        inputs,
        generate=steps,
        alone=alone if rows else None,
    )
    return read_as(made, system) if system else made


def read_as(case: Case, system: str) -> Case:
    """The same case loaded with `pm.load(folder, system=...)`."""

    def make(folder: Path) -> Expected:
        found = case.make(folder)
        return Expected(**{**vars(found), "call": {"system": system}})

    return Case(name=case.name, make=make, file=case.file, needs=case.needs)


def respelled(case: Case, config: Mapping[str, Any]) -> Case:
    """The same case with further or other values in config.json, as older files have them."""

    def make(folder: Path) -> Expected:
        found = case.make(folder)
        path = folder / "config.json"
        settings = {**json.loads(path.read_text()), **config}
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
        return found

    return Case(name=case.name, make=make, file=case.file, needs=case.needs)


def sizes(system: System) -> tuple[Size, ...]:
    """Every variant by the library on the meta device."""

    def size(name: str, config: Mapping[str, Any]) -> Size:
        family = "Bloom" if config["model_type"] == "bloom" else "Llama"
        return hugging_size(name, f"{family}ForCausalLM", lambda t: getattr(t, f"{family}Config")(**config))

    return tuple(size(each.name, each.config) for each in system.variants if each.config is not None)


def training_checks(system: System, config: Mapping[str, Any]) -> dict[str, Callable[[], TrainingCheck]]:
    """One training check for every stage: write names of real pictures by letters, after a prompt or from nothing."""

    def training_check(prompt: Sequence[int]) -> TrainingCheck:
        torch.manual_seed(0)
        names = real.captions()
        return TrainingCheck(
            model=system.formats[0].model_spec(config).build(),
            batches=lambda step: caption_batch([names[i] for i in rows(step, 8)], prompt),
        )

    talks = {stage.name: any(source.kind == "conversations" for source in stage.data) for stage in system.recipe}
    prompts = {name: [1, 2] if asked else [1] for name, asked in talks.items()}
    return {name: partial(training_check, prompt) for name, prompt in prompts.items()}


def talk(system: System, question: str) -> list[Message]:
    """A conversation that asks; with a short system message where the format would write a page."""
    said = [Message(role="system", parts=(Text("Answer."),))] if system.id == "chinese-llama-2" else []
    return [*said, Message(role="user", parts=(Text(question),))]


def headline(
    system: System,
    config: Mapping[str, Any],
    specials: Sequence[str],
    steps: int = 100,
    chat_template: str = "",
    layout: int = 0,
    converted: Callable[[Path], Path] = lambda folder: folder,
) -> HeadlineResult:
    """Tiny weights in the published format learn answers to English and Chinese questions, and `chat` gives them.

    chat_template: what the folder brings along.  layout: number of the format.  converted(folder) -> what is loaded in
    the end, made of the trained folder.
    """
    torch.manual_seed(0)
    count = 8
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, specials, bos="<s>", eos="</s>", pad="</s>")
        if chat_template:
            (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        config = {**config, "vocab_size": size}
        write_config(folder, config=config, generation_config={"eos_token_id": 1})
        model_spec = system.formats[layout].model_spec(config)
        write_weights(folder, model_spec.build(), model_spec.keys[0])
        names = real.captions(count)
        asked = [f"What is picture {i}?" if i % 2 else f"\u56fe{i}\u662f\u4ec0\u4e48?" for i in range(count)]
        talks = [talk(system, question) for question in asked]
        answered = [[*t, Message(role="assistant", parts=(Text(a),))] for t, a in zip(talks, names, strict=True)]
        model = pm.load(folder, system=system.id)
        train_on_conversations(model, answered, writer(folder, model_spec), steps=steps)
        again = pm.load(converted(folder), system=system.id)
        right = sum(again.chat(t, max_tokens=40).text.strip() == a for t, a in zip(talks, names, strict=True))
    seen = f"tiny weights trained on {count} English and Chinese questions: chat answers {right}"
    return HeadlineResult(ok=right == count, evidence=f"{seen} (published weights were not at hand)")
