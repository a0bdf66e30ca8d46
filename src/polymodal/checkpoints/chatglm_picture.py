"""One picture in front of a conversation with ChatGLM-6B: the parts joined, the words of VisualGLM around it.

    <img>features</img>Q:first question\\nA:first answer\\nQ:question\\nA:[gMASK]<sop>answer<eop>
    the same with the signs of ASK_AND_ANSWER where anything that was said is Chinese

Traps: ChatGLM has one answer in a prompt, so what was said before is part of the question; the official code takes one
picture, which stands in front of everything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polymodal.backbones.chatglm import GLMConfig, GLMPositions
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.checkpoints.record import CheckpointFiles, LoadedModel, Part
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import PromptError
from polymodal.models.prefix_lm import PrefixLM

ASK_AND_ANSWER = {"Chinese": ("\u95ee\uff1a", "\u7b54\uff1a"), "other": ("Q:", "A:")}
MASK, START, END = "[gMASK]", "<sop>", "<eop>"
TEMPLATE = Template(
    turns={
        "user": Turn(after=(Special(name=MASK), Special(name=START))),
        "assistant": Turn(after=(Special(name=END, loss_mask=True),), loss_mask=True),
    }
)
_CHINESE = re.compile("[\u4e00-\u9fff]")


def only_picture(messages: Sequence[Message]) -> list[Media]:
    """The picture of a conversation, or nothing.  Raises PromptError for a second one."""
    media = [part for message in messages for part in message.media]
    if len(media) > 1:
        raise PromptError(f"messages: this model takes 1 picture, in front of the conversation; found {len(media)}")
    return media


def one_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation as one question (and its answer, where it ends in one): the picture, then round by round.

    Chinese words are asked and answered in Chinese.  Raises PromptError for a second picture.
    """
    media = only_picture(messages)
    answered = messages[-1].role == "assistant"
    rounds = messages[:-1] if answered else messages
    ask, answer = ASK_AND_ANSWER["Chinese" if any(_CHINESE.search(each.text) for each in messages) else "other"]
    said = ""
    for message in rounds:
        said += f"{answer}{message.text}\n" if message.role == "assistant" else f"{ask}{message.text}\n"
    question = Message(role="user", parts=(*media, Text(f"{said}{answer}")))
    return (question, replace(messages[-1], parts=(Text(messages[-1].text),))) if answered else (question,)


def without_positions(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch without the places on one axis that every processor counts; the model counts its own on two."""
    return {name: value for name, value in batch.items() if name != "position_ids"}


@dataclass(frozen=True, kw_only=True)
class PictureGLM:
    """EVA ViT-g, a Q-Former with its linear, ChatGLM.  start, end: ids of <sop> and <eop>.

    rewrite: a conversation -> one question and its answer.  tag: what stands around the picture.  stop: texts that end
    an answer before <eop>.
    """

    encoder: ViTConfig
    connector: QFormerConnectorConfig
    decoder: GLMConfig
    placeholder: int
    start: int
    end: int
    rewrite: Callable[[Sequence[Message]], tuple[Message, ...]] = one_question
    tag: str = "img"
    stop: tuple[str, ...] = ()

    def build(self) -> PrefixLM:
        return PrefixLM({"image": self.encoder.build()}, {"image": self.connector.build()}, self.decoder.build(),
                        {"image": self.placeholder}, prepare_inputs=GLMPositions(start=self.start))  # fmt: skip

    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        side, width, tokens = self.encoder.image_size, self.decoder.width, self.connector.tokens
        seen = f"[N, {self.encoder.tokens}, {self.encoder.width}]"
        return (
            Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
                 input=f"[N, 3, {side}, {side}]", output=seen, tokens=self.encoder.tokens),
            Part(slot="connector", modality="image", name=f"Q-Former of {tokens} queries + linear",
                 prefix="connectors.image", input=seen, output=f"[N, {tokens}, {width}]", tokens=tokens),
            Part(slot="backbone", name="ChatGLM-6B, sees its prompt both ways", prefix="backbone",
                 input=f"[B, T, {width}]", output="[B, T, V]"),
        )  # fmt: skip

    def assemble(self, module: Any, files: CheckpointFiles) -> LoadedModel:
        """Conversations about one picture, from a folder with ChatGLM's tokenizer."""
        side = self.encoder.image_size
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        image = Modality(name="image", placeholder="", placeholder_id=self.placeholder, transform=transform,
                         tokens=SameCount(self.connector.tokens), before=(Words(text=f"<{self.tag}>"),),
                         after=(TEXT_START, Words(text=f"</{self.tag}>")))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(control=(MASK, START, END)), template=TEMPLATE,
                              modalities=(image,), rewrite=self.rewrite,
                              max_length=self.decoder.max_length, finish=without_positions)  # fmt: skip
        return LoadedModel(model=module, processor=processor, stop=self.stop)
