"""A folder that commands can work on: tiny weights in a published format, with a tokenizer of bytes beside them.

Published weights cannot always be had, so a headline is shown at tiny size on real pictures: the folder is what an
author would publish, and everything runs through `pm.load` as for any other.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from polymodal.check.record import HeadlineResult
from polymodal.checkpoints.record import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec
from polymodal.systems import LoadOptions, Variant
from polymodal.weights.export import export_safetensors
from polymodal.weights.keytable import KeyTable

BYTES = 256


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


def train_on_conversations(
    model: Any, conversations: Sequence[Any], folder: Path, model_spec: Any, *, steps: int, lr: float = 3e-3
) -> None:
    """Train a loaded checkpoint on conversations through its own processor and write its weights back to the folder."""
    import torch

    from polymodal.check.training import lm_objective

    batch, module = model.processor(list(conversations)), model.module.train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr)
    for _ in range(steps):
        optimiser.zero_grad()
        lm_objective(module, batch).backward()
        optimiser.step()
    write_weights(folder, module.eval(), model_spec.keys[0])


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


def train_and_chat(model: Any, folder: Path, model_spec: Any, *, count: int, steps: int, lr: float = 3e-3) -> int:
    """Train a loaded folder on `count` real pictures and their names through its own processor, save it back, load it
    again, and ask about each picture by `chat`: how many answers are the name."""
    import polymodal as pm
    from polymodal.check import real
    from polymodal.data.media import Text
    from polymodal.data.messages import Message

    samples = real.pictures()[:count]
    asked = [Message(role="user", parts=(pm.image(picture), Text(QUESTION))) for picture, _ in samples]
    answers = [Message(role="assistant", parts=(Text(name),)) for _, name in samples]
    conversations = [list(talk) for talk in zip(asked, answers, strict=True)]
    train_on_conversations(model, conversations, folder, model_spec, steps=steps, lr=lr)
    again = pm.load(folder)
    replies = [again.chat(pm.image(picture), QUESTION, max_tokens=32).text.strip() for picture, _ in samples]
    return sum(answer == name for answer, (_, name) in zip(replies, samples, strict=True))


def spread_codes(model: Any, side: int = 16) -> None:
    """Make the codes of a fresh image codec differ, in place: its codebook becomes latents of noise, side x side."""
    import torch

    from polymodal.check import randomise

    codec = model.encoders["image"]
    with torch.no_grad():
        table = codec.codebook.embedding.weight
        latents = codec.quant_conv(codec.encoder(randomise.values("noise", (4, 3, side, side))))
        latents = latents.movedim(1, -1).flatten(0, 2)
        table.copy_(latents[:: len(latents) // len(table)][: len(table)])


def train_fresh_and_chat(folder: Path, format: CheckpointFormat, config: Mapping[str, Any], *, steps: int,
           fresh: Callable[[nn.Module], None] | None = None, **files: Mapping[str, Any]) -> int:  # fmt: skip
    """A fresh tiny model of `config`, written as a published folder beside `files`, trained on eight pictures: how
    many of them `chat` names afterwards.  fresh: what is done to its weights first."""
    import polymodal as pm

    write_config(folder, config=config, **files)
    model_spec = format.model_spec(config)
    module = model_spec.build()
    if fresh is not None:
        fresh(module)
    write_weights(folder, module, model_spec.keys[0])
    return train_and_chat(pm.load(folder), folder, model_spec, count=8, steps=steps)


def chat_headline(format: CheckpointFormat, config: Callable[[int], Mapping[str, Any]], *, steps: int, wanting: str,
                  specials: Sequence[str] = (), fresh: Callable[[nn.Module], None] | None = None,
                  **files: Mapping[str, Any]) -> HeadlineResult:  # fmt: skip
    """`train_fresh_and_chat` for a system whose special tokens are LLaMA's three, ids 0 to 2, and then `specials`.

    config(vocabulary size) -> its config.json; wanting: in words, why it is shown on tiny weights.
    """
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>", *specials], bos="<s>", eos="</s>", pad="<unk>")
        right = train_fresh_and_chat(folder, format, config(size), steps=steps, fresh=fresh, **files)
    return HeadlineResult(
        ok=right == 8, evidence=f"tiny weights trained on 8 pictures: chat names {right} of them ({wanting})"
    )
