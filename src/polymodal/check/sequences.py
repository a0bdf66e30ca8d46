"""Real samples of three modalities for methods on features, made of pictures and their names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from polymodal.check import real
from polymodal.check.record import Tensors
from polymodal.check.training import LETTERS, letters

LENGTHS = {"text": 12, "audio": 20, "vision": 16}


def sequences(count: int) -> Tensors:
    """Unaligned sequences of three rates about real pictures, padded in front.

    text: letters of the name, one-hot.  vision: the picture in 16 tiles.  audio: brightness along 20 columns, a
    stand-in for sound, since the pictures make none.  score: how warm the picture is, in -3 .. 3.
    """
    pixels = real.pixels(32)[:count]
    names = [letters(name, 0)[-LENGTHS["text"] :] for name in real.captions(count)]
    text = torch.zeros(count, LENGTHS["text"], len(LETTERS))
    for row, name in enumerate(names):
        text[row, -len(name) :] = F.one_hot(torch.tensor(name), len(LETTERS)).float()
    vision = F.adaptive_avg_pool2d(pixels, (8, 8)).unfold(2, 2, 2).unfold(3, 2, 2)
    vision = vision.permute(0, 2, 3, 1, 4, 5).reshape(count, 16, 12)
    audio = F.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), (4, 20))[:, 0].transpose(1, 2)
    warm = pixels[:, 0].mean((1, 2)) - pixels[:, 2].mean((1, 2))
    score = (3 * (warm - warm.mean()) / warm.std()).clamp(-3, 3)
    return {"text": text, "audio": audio, "vision": vision, "score": score}
