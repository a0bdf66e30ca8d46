"""The headline of systems whose official files keep codec and decoder apart: each is a checkpoint by itself.

    real pictures -> codec, loaded from its file -> codes -> ids of the decoder's vocabulary
    BEGIN ids END name;  WRITE name BEGIN ids -> decoder, trained and written to its file -> loaded -> `generate`

Such a decoder has no encoder and no processor, so it is given ids and gives ids, as the official code does between its
two models.  Codes take the ids from `FIRST` on; below lie three marks and the letters of names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.check import real
from polymodal.check.demo import Checkpoint
from polymodal.check.record import HeadlineResult, TrainingCheck
from polymodal.check.training import learned, letters, table
from polymodal.train.objectives import LanguageModeling

BEGIN, END, WRITE, FIRST, COUNT = 30, 31, 32, 33, 8


def codec_and_decoder(codec: Checkpoint, decoder: Checkpoint, side: int, folder: Path) -> HeadlineResult:
    """Eight real pictures of `side` pixels are named from their codes, and their codes written from their names and
    turned into pixels again."""
    torch.manual_seed(0)
    eyes = codec.stored(folder / "codec")
    pixels, names = real.pixels(side, count=COUNT), [letters(name) for name in real.captions(COUNT)]
    with torch.no_grad():
        codes = eyes.module.encode(pixels)
    ids = [(FIRST + row.flatten()).tolist() for row in codes]
    reading = [([BEGIN, *seen, END], name) for seen, name in zip(ids, names, strict=True)]
    writing = [([WRITE, *name, BEGIN], seen) for seen, name in zip(ids, names, strict=True)]
    model = decoder.stored(folder / "decoder", lambda module: taught(module, reading + writing))
    named = sum(answer(model, asked, len(name)) == name for asked, name in reading)
    written = [answer(model, asked, len(seen)) for asked, seen in writing]
    right = sum(found == seen for found, seen in zip(written, ids, strict=True))
    pictures = [found for found in written if min(found) >= FIRST]
    painted = torch.empty(0)
    if pictures and getattr(eyes.module, "decoder", None) is not None:
        with torch.no_grad():
            painted = eyes.module.decode(torch.tensor(pictures).reshape(-1, *codes.shape[1:]) - FIRST)
    return HeadlineResult(
        ok=named == right == COUNT and tuple(painted.shape[1:]) in ((), tuple(pixels.shape[1:])),
        evidence=f"codec and decoder in files of their own: {named} of {COUNT} pictures named from their codes, codes "
        f"of {right} written from their names, {len(painted)} turned into pixels",
    )


def codec_alone(shown: HeadlineResult) -> HeadlineResult:
    """What `codec_and_decoder` showed, as the headline of the codec's layout."""
    return replace(shown, evidence="turned the pictures into the codes that its decoder read and wrote, and back")


def taught(module: nn.Module, samples: list[tuple[list[int], list[int]]]) -> nn.Module:
    """The decoder after it learned what follows each prompt."""
    lines = [[*asked, *answer] for asked, answer in samples]
    ids, mask = table(lines, 0), table([[1] * len(line) for line in lines], 0)
    labels = table([[-100] * len(asked) + answer for asked, answer in samples], -100)
    batch: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return learned(TrainingCheck(model=module, batches=lambda step: batch), LanguageModeling(), steps=120)


def answer(model: Any, asked: list[int], length: int) -> list[int]:
    """The ids that a loaded model writes behind a prompt."""
    ids = model.generate(input_ids=torch.tensor([asked]), max_new_tokens=length, eos_token_id=None, pad_token_id=0)
    return ids[0, len(asked) :].tolist()
