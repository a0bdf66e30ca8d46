"""A folder that commands can work on: tiny weights in a published format, with a tokenizer of bytes beside them.

Published weights cannot always be had, so a headline is shown at tiny size on real pictures: the folder is what an
author would publish, and everything runs through `pm.load` as for any other.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from polymodal.check.fixture import store
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.systems import LoadOptions, Variant
from polymodal.weights.export import export_safetensors, export_tensors
from polymodal.weights.keytable import KeyTable

BYTES = 256
KNOWN = 0.02  # nats a token; greedy answers are then those that were taught


def byte_tokenizer(
    folder: Path, specials: Sequence[str] | Mapping[str, int], *, bos: str = "", eos: str = "", pad: str = ""
) -> int:
    """Write tokenizer.json and tokenizer_config.json of a byte-level vocabulary; returns its size.

    specials: names in order, which get ids 0, 1, ... before the 256 bytes; or name -> id (the bytes fill the ids that
    are free, in order).
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fixed = dict(specials) if isinstance(specials, Mapping) else {name: i for i, name in enumerate(specials)}
    free = (i for i in range(BYTES + len(fixed) + max(fixed.values(), default=0) + 1) if i not in set(fixed.values()))
    letters = {sign: next(free) for sign in sorted(pre_tokenizers.ByteLevel.alphabet())}
    pipeline = Tokenizer(models.BPE(vocab={**letters, **fixed}, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in fixed])
    pipeline.save(str(folder / "tokenizer.json"))
    names = {f"{kind}_token": name for kind, name in (("bos", bos), ("eos", eos), ("pad", pad)) if name}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    return max({**letters, **fixed}.values()) + 1


def write_config(folder: Path, **files: Mapping[str, Any]) -> None:
    """JSON files beside the weights: config=..., preprocessor_config=..., generation_config=..."""
    for name, table in files.items():
        (folder / f"{name}.json").write_text(json.dumps(table), encoding="utf-8")


def write_weights(folder: Path, module: nn.Module, table: KeyTable) -> Path:
    """The module's weights as a published model.safetensors: the key table read backwards."""
    return export_safetensors(module, folder / "model.safetensors", table)


def writer(folder: Path, model_spec: ModelSpec) -> Callable[[nn.Module], Path]:
    """module -> its weights in that folder, by the spec's first table."""
    return lambda module: write_weights(folder, module, model_spec.keys[0])


def write_layout(path: Path, module: nn.Module, format: CheckpointFormat, model_spec: ModelSpec) -> Path:
    """The module's weights as a file of the format: safetensors, a torch file with the format's entry, or arrays."""
    table = model_spec.keys[0]
    if path.suffix == ".safetensors":
        return export_safetensors(module, path, table)
    draft = path.with_name(f"draft-{path.name}")  # the old file may be mapped by the model that is written
    store(export_tensors(module, table), draft, format.entry[0])
    return draft.replace(path)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One tiny checkpoint.  config: what its format parses.  file: its weights file.  written: the config.json beside
    it; none where the file is all there is.  prepare(module): what is done to fresh weights."""

    format: CheckpointFormat
    config: Mapping[str, Any]
    file: str
    written: Mapping[str, Any] | None = None
    prepare: Callable[[nn.Module], None] = field(default=lambda module: None)

    def stored(self, folder: Path, trained: Callable[[nn.Module], nn.Module] = lambda module: module) -> Any:
        """Build, train, write and load: the model that `pm.load` gives."""
        import polymodal as pm

        folder.mkdir(exist_ok=True)
        if self.written is not None:
            write_config(folder, config=self.written)
        model_spec = self.format.model_spec(self.config)
        module = model_spec.build()
        self.prepare(module)
        write_layout(folder / self.file, trained(module), self.format, model_spec)
        return pm.load(folder)


def train_on_conversations(
    model: Any,
    conversations: Sequence[Any],
    write: Callable[[nn.Module], Any],
    *,
    steps: int,
    lr: float = 3e-3,
    frozen: tuple[str, ...] = (),
) -> None:
    """Train a loaded checkpoint on conversations through its own processor until it knows them, `steps` steps at least,
    and write its weights back by `write`.

    frozen: prefixes of what does not learn.
    """
    from polymodal.check.training import learned
    from polymodal.train.objectives import LanguageModeling
    from polymodal.train.schedule import WarmupStableDecay

    batch = model.processor(list(conversations))
    lesson = TrainingCheck(model=model.module, batches=lambda step: batch, steps=steps, lr=lr)
    # At a constant rate the last steps are restless, and after steps that were counted on one processor another may
    # have learned less.
    write(learned(lesson, LanguageModeling(), frozen=frozen, schedule=WarmupStableDecay(), until=KNOWN))


def with_fresh_weights(
    parse_config: Callable[[Mapping[str, Any]], ModelSpec], specials: Sequence[str]
) -> Callable[[Variant, LoadOptions], LoadedModel]:
    """`System.load` of a system that has no weights yet: random ones and LLaMA's three special tokens, `specials` and a
    vocabulary of bytes, so that every command runs; what it answers is noise."""

    def load(variant: Variant, options: LoadOptions) -> LoadedModel:
        import torch

        torch.manual_seed(0)
        spec = parse_config(variant.config or {})
        module = spec.build().to(device=options.device, dtype=getattr(torch, options.dtype))
        if spec.assemble is None:
            return LoadedModel(model=module, processor=None)
        with tempfile.TemporaryDirectory() as folder:
            byte_tokenizer(Path(folder), ["<unk>", "<s>", "</s>", *specials], bos="<s>", eos="</s>", pad="<unk>")
            return spec.assemble(module, CheckpointFiles(Path(folder)))

    return load


QUESTION = "What is it?"


Sample = tuple[Media, str]


def named_pictures(count: int) -> list[Sample]:
    """The first real pictures, and their names as the answers about them."""
    import polymodal as pm
    from polymodal.check import real

    return [(pm.image(picture), name) for picture, name in real.pictures()[:count]]


def train_and_chat(
    folder: Path, write: Callable[[nn.Module], Any], *, count: int = 8, steps: int, lr: float = 3e-3,
    samples: Sequence[Sample] | None = None,
) -> int:  # fmt: skip
    """Train a folder on samples (`count` real pictures and their names) through its own processor, write it back, load
    it again, and ask about each by `chat`: how many answers are right.

    write(module) puts its weights into the folder.
    """
    import polymodal as pm

    shown = named_pictures(count) if samples is None else samples
    conversations = [
        [Message(role="user", parts=(item, Text(QUESTION))), Message(role="assistant", parts=(Text(name),))]
        for item, name in shown
    ]
    train_on_conversations(pm.load(folder), conversations, write, steps=steps, lr=lr)
    again = pm.load(folder)
    return sum(again.chat(item, QUESTION, max_tokens=48).text.strip() == name for item, name in shown)


def names_written(model: Any, prompt: Sequence[int], given: Callable[[list[int]], Mapping[str, Any]]) -> int:
    """Of the first eight pictures, how many names a loaded model writes behind a prompt by `generate`, letter by letter
    as `training.caption_check` teaches them.  given(rows) -> the tensors of those pictures."""
    import torch

    from polymodal.check import real
    from polymodal.check.training import letters

    right = 0
    for row, name in enumerate(real.captions(8)):
        wanted = letters(name)
        ids = model.generate(input_ids=torch.tensor([prompt]), **given([row]), max_new_tokens=len(wanted),
                             eos_token_id=None, pad_token_id=0)  # fmt: skip
        right += ids[0, len(prompt) :].tolist() == wanted
    return right


def spread_codes(model: Any, side: int = 16) -> None:
    """`spread_codec` of the image encoder of a model."""
    spread_codec(model.encoders["image"], side)


def spread_codec(codec: Any, side: int = 16) -> None:
    """Make the codes of a fresh image codec differ, in place: its codebook becomes latents of noise, side x side."""
    import torch

    from polymodal.check import randomise

    with torch.no_grad():
        table = codec.codebook.embedding.weight
        latents = codec.quant_conv(codec.encoder(randomise.values("noise", (4, 3, side, side))))
        latents = latents.movedim(1, -1).flatten(0, 2)
        table.copy_(latents[:: len(latents) // len(table)][: len(table)])


def train_fresh_and_chat(
    folder: Path, format: CheckpointFormat, config: Mapping[str, Any], weights: str = "model.safetensors", /,
    *, steps: int, fresh: Callable[[nn.Module], None] | None = None, samples: Sequence[Sample] | None = None,
    **files: Mapping[str, Any],
) -> int:  # fmt: skip
    """A fresh tiny model of `config`, written as a published folder beside `files`, trained on eight pictures (or
    `samples`): how many of them `chat` names afterwards.  fresh: what is done to its weights first.

    weights: the file's name in this layout.
    """
    write_config(folder, config=config, **files)
    model_spec = format.model_spec(config)

    def write(module: nn.Module) -> Path:
        return write_layout(folder / weights, module, format, model_spec)

    module = model_spec.build()
    if fresh is not None:
        fresh(module)
    write(module)
    return train_and_chat(folder, write, steps=steps, samples=samples)


def chat_headline(format: CheckpointFormat, config: Callable[[int], Mapping[str, Any]], *, steps: int, wanting: str,
                  specials: Sequence[str] = (), fresh: Callable[[nn.Module], None] | None = None,
                  weights: str = "model.safetensors", **files: Mapping[str, Any]) -> HeadlineResult:  # fmt: skip
    """`train_fresh_and_chat` for a system whose special tokens are LLaMA's three, ids 0 to 2, and then `specials`.

    config(vocabulary size) -> its config.json; wanting: in words, why it is shown on tiny weights.  weights: the
    name of their file in this layout.
    """
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>", *specials], bos="<s>", eos="</s>", pad="<unk>")
        right = train_fresh_and_chat(folder, format, config(size), weights, steps=steps, fresh=fresh, samples=None,
                                     **files)  # fmt: skip
    return HeadlineResult(
        ok=right == 8, evidence=f"tiny weights trained on 8 pictures: chat names {right} of them ({wanting})"
    )
