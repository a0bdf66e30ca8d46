"""How BLIP-2 and InstructBLIP answer messages: the picture's transform, the tokenizers, the words around a question.

messages -> the picture first, then "Question: Q Answer:" (BLIP-2) or the words themselves (InstructBLIP)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from polymodal.backbones.encoder_decoder import EncoderDecoderConfig
from polymodal.checkpoints.qformer_lm import QFormerLM
from polymodal.checkpoints.record import CheckpointFiles, LoadedModel
from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.hf_image import VIT, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.pair_processor import PairProcessor
from polymodal.data.processor import Modality, Processor
from polymodal.data.qformer_processor import QFormerProcessor, collate_with_instruction
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.models.qformer_retrieval import QFormerRetrievalConfig
from polymodal.pipelines.image_text_matching import bert_ids

FIRST_STAGE_IDS = 512  # positions of BERT
PICTURE = {**VIT, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
"""Defaults of BlipImageProcessor, but for the size: both sides at once, whatever the picture's proportions."""

# Prompts of the papers: BLIP-2 asks in words, captions need none; InstructBLIP takes the instruction as it is.
OPT_WORDS, T5_WORDS, PLAIN = ("Question: ", " Answer:"), ("Question: ", " Short answer:"), ("", "")


class QFormerEncoderDecoderProcessor(QFormerProcessor, EncoderDecoderProcessor):
    """The instruction for the Q-Former, the answer for the decoder."""


def template(words: tuple[str, str], seq2seq: bool, bos: str = "</s>", eos: str = "</s>") -> Template:
    """`Question: Q1 Answer: A1. Question: Q2 Answer:` behind the picture and the token a text begins with.

    seq2seq: no such token; the encoder's text ends with eos instead.  Answers end with eos.
    """
    between = words[1] and not seq2seq
    after = (Words(text=". "),) if between else (Special(name=eos, loss_mask=True),)
    turns = {
        "picture": Turn(after=(TEXT_START,) if seq2seq else (Special(name=bos), TEXT_START)),
        "user": Turn(
            before=(Words(text=words[0]),), after=(Words(text=words[1]), *((Special(name=eos),) if seq2seq else ()))
        ),
        "assistant": Turn(before=() if seq2seq else (Words(text=" ", loss_mask=True),), after=after, loss_mask=True),
    }
    return Template(turns=turns)


def picture_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The picture in a turn of its own at the start, and users without words (who want a caption) left out."""
    media = tuple(part for message in messages for part in message.media)
    rest = [replace(message, parts=(Text(message.text),)) for message in messages if message.text.strip()]
    return (Message(role="picture", parts=media), *rest)


def one_question(messages: tuple[Message, ...], words: tuple[str, str]) -> tuple[Message, ...]:
    """`picture_first` with earlier rounds in front of the last question, since an encoder-decoder writes one answer:
    "Q1 Short answer: A1. Question: Q2", to which the template adds the outer words."""
    picture, *turns = picture_first(messages)
    last = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=0)
    said = "".join(f"{turn.text}{words[1]} " if turn.role == "user" else f"{turn.text}. {words[0]}"
                   for turn in turns[:last])  # fmt: skip
    if not said:
        return (picture, *turns)
    return (picture, replace(turns[last], parts=(Text(said + turns[last].text),)), *turns[last + 1 :])


def assemble(found: QFormerLM) -> Callable[[Any, CheckpointFiles], LoadedModel]:
    """What a loaded model needs to answer messages."""

    def joined(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer, text = files.tokenizer(added=("<image>",)), found.text.config
        named = files.json("tokenizer_config.json")
        bos = _name(named, "bos_token") or "</s>"
        seq2seq = isinstance(text, EncoderDecoderConfig)
        asked = PLAIN if found.instructed else T5_WORDS if seq2seq else OPT_WORDS
        given: dict[str, Any] = {
            "tokenizer": tokenizer,
            "template": template(asked, seq2seq, bos=bos),
            "modalities": (_picture(found, files),),
            "rewrite": partial(one_question, words=asked) if seq2seq and not found.instructed else picture_first,
        }
        if isinstance(text, EncoderDecoderConfig):
            given["start_id"] = text.start_id
        if not found.instructed:
            return LoadedModel(model=module, processor=(EncoderDecoderProcessor if seq2seq else Processor)(**given))
        reader = CheckpointFiles(files.folder / "qformer_tokenizer").tokenizer()
        given |= {"reader": reader, "begin": "[CLS]", "end": "[SEP]"}
        return LoadedModel(
            model=module, processor=(QFormerEncoderDecoderProcessor if seq2seq else QFormerProcessor)(**given)
        )

    return joined


@dataclass(frozen=True, kw_only=True)
class Behind:
    """Ids of a sentence behind others."""

    ids: Callable[[str], Sequence[int]]
    before: tuple[int, ...]

    def __call__(self, text: str) -> list[int]:
        return [*self.before, *self.ids(text)]


def pairs(model: QFormerRetrievalConfig, placeholder: int | None) -> Callable[[Any, CheckpointFiles], LoadedModel]:
    """The processor of pictures and texts of a first stage: a placeholder for each query, [CLS], the words, [SEP]."""

    def joined(module: Any, files: CheckpointFiles) -> LoadedModel:
        assert model.encoder is not None
        tokenizer = files.tokenizer()
        side = model.encoder.image_size
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        ids = Behind(ids=bert_ids(tokenizer, FIRST_STAGE_IDS), before=(placeholder or 0,) * model.placeholders)
        return LoadedModel(model=module, processor=PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids))

    return joined


def _name(settings: dict[str, Any], name: str) -> str | None:
    token = settings.get(name)
    return token.get("content") if isinstance(token, dict) else token


def _picture(found: QFormerLM, files: CheckpointFiles) -> Modality:
    side = found.encoder.image_size
    size = {"height": side, "width": side}
    transform = transform_of(files.preprocessor, {**PICTURE, "size": size})
    own = found.placeholder if found.in_front else None  # the tokenizers of such checkpoints may not know `<image>`
    picture = Modality(name="image", placeholder="<image>", placeholder_id=own, transform=transform,
                       tokens=SameCount(found.connector.tokens))  # fmt: skip
    return replace(picture, collate=collate_with_instruction) if found.instructed else picture
