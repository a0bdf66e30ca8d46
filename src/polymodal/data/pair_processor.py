"""Pictures and one text each -> the tensors of a published processor: CLIP, BLIP, ALBEF, ViLT, FLAVA, classifiers.

    processor(messages)               the pictures and the text of a conversation's last message, or of several
    processor(images=..., text=...)   the same, as published processors are called
        picture -> transform -> pixel_values [N, 3, H, W];   text -> ids, begin and end included -> input_ids [B, T]

What is not given is not in the batch: a caption needs no text, a vector of a text no picture.
Traps: texts are padded on the right, for generation too, since positions count from the first token.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polymodal.data.item_rules import check_picklable
from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message, are_several, conversation, user
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PromptError


def stack_pictures(pictures: Sequence[Tensor]) -> dict[str, Tensor]:
    """Pictures [3, H, W] of one size -> `pixel_values [N, 3, H, W]`."""
    return {"pixel_values": torch.stack(list(pictures))}


class PairProcessor:
    """transform: picture record -> [3, H, W], None for a model of text.  tokenizer, ids: sentence -> token ids, both
    None for a model of pictures.  pad: fills texts of unequal length.  collate: pictures -> tensors by name.
    pictures: how many a text is about, [B, pictures, 3, H, W]; None: one, without that axis.  segments: with
    `token_type_ids` (zeros).  answers: what the columns of the logits mean, of a model that answers by choosing one.
    """

    def __init__(
        self,
        *,
        transform: Callable[[Any], Tensor] | None = None,
        tokenizer: Tokenizer | None = None,
        ids: Callable[[str], Sequence[int]] | None = None,
        pad: int = 0,
        collate: Callable[[Sequence[Tensor]], Mapping[str, Tensor]] = stack_pictures,
        pictures: int | None = None,
        segments: bool = False,
        answers: tuple[str, ...] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.answers = answers
        self._transform, self._ids, self._pad = transform, ids, pad
        self._collate, self._pictures, self._segments = collate, pictures, segments

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, for workers of a DataLoader.  Raises ConfigError for a function that cannot be."""
        check_picklable(self)
        return vars(self)

    def __call__(
        self,
        messages: Any = None,
        *,
        images: Any = None,
        text: Any = None,
        generate: bool = False,
        files: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> dict[str, Tensor]:
        """pixel_values float32, input_ids and attention_mask int64 [B, T], as far as there are pictures and texts.

        messages: one conversation, or a list of lists of messages; its last message counts.  images, text: one or a
        list.  generate: as for `Processor`; nothing differs here.  files, limits: see `conversation`.
        Raises PromptError for rows of different kinds, and for media that the model does not take.
        """
        if messages is not None and (images is not None or text is not None):
            raise ConfigError("processor: give messages, or images and text")
        if messages is None:
            return self._batch(_images(images), [] if text is None else [text] if isinstance(text, str) else list(text))
        several = are_several(messages)
        rows = [conversation(row, files=files, limits=limits) for row in (messages if several else [messages])]
        return self._rows([row[-1] for row in rows])

    def _rows(self, rows: Sequence[Message]) -> dict[str, Tensor]:
        pictures = [list(row.media) for row in rows]
        texts = [row.text for row in rows]
        expected = self._pictures or 1
        for index, (found, words) in enumerate(zip(pictures, texts, strict=True)):
            if len(found) not in (0, expected) or bool(found) != bool(pictures[0]) or bool(words) != bool(texts[0]):
                raise PromptError(
                    f"row {index}: expected {expected} picture(s) and a text, or one of both, the same in all rows; "
                    f"found {len(found)} and {words[:40]!r}"
                )
        return self._batch([item for found in pictures for item in found], [words for words in texts if words])

    def _batch(self, pictures: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        if not pictures and not texts:
            raise PromptError("processor: expected a picture or a text, found neither")
        return self.collate([self.pixels(item) for item in pictures], [self.ids(words) for words in texts])

    def pixels(self, item: Any) -> Tensor:
        """One picture, transformed.  Raises PromptError for what the model does not take."""
        if self._transform is None or not isinstance(item, Image) or item.modality != "image":
            found = item.modality if isinstance(item, Image) else type(item).__name__.lower()
            raise PromptError(f"this model takes {self._takes}; found {found}")
        return self._transform(item)

    def ids(self, text: str) -> list[int]:
        """The ids of one text.  Raises PromptError for a model of pictures."""
        if self._ids is None:
            raise PromptError(f"this model takes {self._takes}; found text")
        return list(self._ids(text))

    def collate(self, pictures: Sequence[Tensor], texts: Sequence[list[int]]) -> dict[str, Tensor]:
        """Transformed pictures and rows of ids as a batch."""
        batch: dict[str, Tensor] = {}
        if pictures:
            batch |= self._collate(pictures)
            if self._pictures is not None:
                batch = {name: value.unflatten(0, (-1, self._pictures)) for name, value in batch.items()}
        return batch | self._texts(texts) if texts else batch

    def _texts(self, rows: Sequence[list[int]]) -> dict[str, Tensor]:
        length = max(map(len, rows))
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        ids = torch.tensor([row + [self._pad] * (length - len(row)) for row in rows])
        found = {"input_ids": ids, "attention_mask": mask}
        return found | {"token_type_ids": torch.zeros_like(ids)} if self._segments else found

    @property
    def takes_pictures(self) -> bool:
        """Whether it has a transform of pictures."""
        return self._transform is not None

    @property
    def takes_text(self) -> bool:
        """Whether it turns sentences into ids."""
        return self._ids is not None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it takes beside text."""
        return () if self._transform is None else ("image",)

    @property
    def _takes(self) -> str:
        return " and ".join(["pictures"] * (self._transform is not None) + ["text"] * (self._ids is not None))


def _images(given: Any) -> list[Any]:
    """One picture or a list of them as records; raises PromptError for what is none."""
    if given is None:
        return []
    found: list[Any] = []
    for item in given if isinstance(given, list | tuple) else [given]:
        part = item if isinstance(item, Image | Text) else user({"type": "image", "image": item}).parts[0]
        found.append(part)
    return found
