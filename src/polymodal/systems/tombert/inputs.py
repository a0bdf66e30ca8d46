"""Tweets, targets and pictures as TomBERT takes them.

    [CLS] tweet [SEP] target [SEP], at most 64 tokens, the longer of the two cut first;  [CLS] target [SEP], at most 16
    picture -> 224 x 224 out of its middle -> ImageNet's mean and deviation

Traps: the mark $T$ stays in the tweet; the official code crops and mirrors pictures at random, in tests too.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import PromptError

MEAN, DEVIATION, SIDE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


def tweet_inputs(
    tokenizer: Tokenizer, tweet: str, target: str, max_length: int = 64, max_target: int = 16
) -> dict[str, Tensor]:
    """input_ids, token_type_ids, target_ids of one sample, each `[1, T]`.  Raises PromptError without a target."""
    if not target.strip():
        raise PromptError("TomBERT: expected a target, found none; name what the sentiment is toward")
    begin, end = tokenizer.special("[CLS]"), tokenizer.special("[SEP]")
    first, second = tokenizer.encode(tweet.lower()), tokenizer.encode(target.lower())
    alone = [begin, *second[: max_target - 2], end]
    while len(first) + len(second) > max_length - 3:
        (first if len(first) > len(second) else second).pop()
    ids = [begin, *first, end, *second, end]
    kinds = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    return {name: torch.tensor([each]) for name, each in
            (("input_ids", ids), ("token_type_ids", kinds), ("target_ids", alone))}  # fmt: skip


def picture_values(picture: Image) -> Tensor:
    """`[3, 224, 224]`: the middle; a picture that is smaller is enlarged first."""
    picture = picture.convert("RGB")
    width, height = picture.size
    if min(width, height) < SIDE:
        scale = SIDE / min(width, height)
        picture = picture.resize((max(SIDE, round(width * scale)), max(SIDE, round(height * scale))))
        width, height = picture.size
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    pixels = np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32) / 255
    return ((torch.from_numpy(pixels) - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)
