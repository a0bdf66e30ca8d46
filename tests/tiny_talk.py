"""A small random model that talks about pictures, its processor, and pictures: for tests of conversations."""

import numpy as np
import torch

from polymodal.data.media import Image
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, chatml
from tiny_models import picture_model
from tiny_text import letters_tokenizer

TOKENIZER = letters_tokenizer()


def processor(placeholder: str = "<reponame>") -> Processor:
    image = Modality(
        name="image",
        placeholder=placeholder,
        transform=lambda image: torch.from_numpy(image.source),
        tokens=lambda values: values.shape[-1],
        before=(Special(name="<file_sep>"),),
    )
    return Processor(tokenizer=TOKENIZER, template=chatml(default_system="Be kind"), modalities=[image])


def picture(seed: int) -> Image:
    return Image(np.random.default_rng(seed).random((3, 4, 4), dtype=np.float32))


def model(seed: int = 0):
    return picture_model(TOKENIZER.special("<reponame>"), TOKENIZER.vocab_size, seed)
