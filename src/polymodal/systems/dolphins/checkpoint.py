"""Published checkpoints of Dolphins: config to model, names of tensors, the prompt of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.clips import FramesOf, stacked
from polymodal.checkpoints.open_flamingo import CLIP_L
from polymodal.checkpoints.open_flamingo_lora import MPT_ATTENTION, with_low_rank
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Segment, Slot, Special, Words
from polymodal.data.transforms import ShorterSideCrop
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec

END, IMAGE, ANSWER, PAD = "<|endofchunk|>", "<image>", "<answer>", "<PAD>"  # in the order in which they were added
BORDER = Special(name="<|endoftext|>")


class Driving:
    """`USER: <image> is a driving video. question GPT: answer<|endofchunk|>` again and again, as in training; the last
    answer alone is learned, behind `<answer>`."""

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` adds the words and the token that ask for an answer.

        Raises PromptError for no message and for another role.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        made: list[Segment] = [BORDER]
        for index, message in enumerate(messages):
            if message.role == "user":
                made.append(Words(text="USER: "))
                for part in message.parts:
                    if not isinstance(part, Text):
                        made += [Slot(media=part), Words(text=" is a driving video. ")]
                made.append(Words(text=message.text))
            elif message.role == "assistant":
                last = index == len(messages) - 1
                made += [Words(text=" GPT: "), *([Special(name=ANSWER)] if last else [])]
                made += [Words(text=message.text, loss_mask=last), Special(name=END, loss_mask=last)]
            else:
                raise PromptError(f"messages: this model has no role {message.role!r}; it knows user, assistant")
        return (*made, *((Words(text=" GPT: "), Special(name=ANSWER)) if ask else (BORDER,)))


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size.  Raises ConfigError for another language model."""
    kind = (config.get("text_config") or {}).get("model_type")
    if kind != "mpt":
        raise ConfigError(f"dolphins: text_config.model_type {kind!r} is not supported; expected mpt")
    found = replace(open_flamingo.open_flamingo(config), clips=True)
    tuned = with_low_rank(found, MPT_ATTENTION, config)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        still = ShorterSideCrop(size=side, crop=side, crop_rounding="even")
        video = Modality(name="video", placeholder=IMAGE, transform=FramesOf(transform=still), tokens=SameCount(1),
                         collate=stacked)  # fmt: skip
        words = files.tokenizer(added=(END, IMAGE, ANSWER, PAD), eos=END, pad=PAD)
        processor = Processor(tokenizer=words, template=Driving(), modalities=(video,),
                              max_length=found.backbone.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=tuned.build, keys=tuned.keys(config), parts=open_flamingo.drawing(found), assemble=assemble)


def published() -> dict[str, Any]:
    """The released model's config; the four added tokens are the last ones of the vocabulary."""
    text = {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "max_seq_len": 2048,
            "vocab_size": 50281}  # fmt: skip
    return {"model_type": "dolphins", "text_config": text, "vision_config": {**CLIP_L, "image_size": 336},
            "lora_r": 64, "lora_alpha": 128, "lora_dropout": 0.05, "cross_attn_every_n_layers": 4,
            "media_token_id": 50278, "eos_token_id": 50277}  # fmt: skip
