"""Published checkpoints of MultiModal-GPT: config to model, names of tensors, the instructions of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.checkpoints import open_flamingo
from polymodal.checkpoints.open_flamingo import CLIP_L
from polymodal.checkpoints.open_flamingo_lora import GATED, LLAMA_ATTENTION, with_low_rank
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Segment, Slot, Special, Words
from polymodal.data.transforms import ShorterSideCrop
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec

END, IMAGE, PAD = "<|endofchunk|>", "<image>", "<PAD>"  # in the order in which they were added
FIRST, LAST = Special(name="<s>"), Special(name="</s>", loss_mask=True)
TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


class Instructions:
    """`<s>Below is ... ### Image: picture ### Instruction: question ### Response: answer</s>`, and each further turn
    from `<s>` and its `### Instruction:` on, as the official training tokenises them."""

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; `ask` adds nothing, what asks for an answer belongs to the instruction.

        Raises PromptError for no message, another role, or more than the one picture in front that it was trained on.
        """
        if not messages:
            raise PromptError("messages: expected at least one message, found none")
        if (count := sum(len(message.media) for message in messages)) > 1:
            raise PromptError(f"messages: this model takes one picture in a conversation, found {count}")
        made: list[Segment] = []
        for message in messages:
            if message.role == "assistant":
                made += [Words(text=message.text, loss_mask=True), LAST]
                continue
            if message.role != "user":
                raise PromptError(f"messages: this model has no role {message.role!r}; it knows user, assistant")
            if made and message.media:
                raise PromptError("messages: a picture belongs to the first turn of a conversation with this model")
            made += [FIRST, TEXT_START, *([] if made else [Words(text=TASK)])]
            for part in message.parts:
                if not isinstance(part, Text):
                    made += [Words(text="\n\n### Image:\n"), Slot(media=part)]
            made.append(Words(text=f"\n\n### Instruction:\n{message.text}\n\n### Response:\n"))
        return tuple(made)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size.  Raises ConfigError for another language model."""
    kind = (config.get("text_config") or {}).get("model_type")
    if kind != "llama":
        raise ConfigError(f"multimodal-gpt: text_config.model_type {kind!r} is not supported; expected llama")
    found = replace(open_flamingo.open_flamingo(config), following=True)
    tuned = with_low_rank(found, (*LLAMA_ATTENTION, *GATED), config)

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        image = Modality(name="image", placeholder=IMAGE, tokens=SameCount(1), collate=StackedAs("vision_x"),
                         transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"), ahead=True)  # fmt: skip
        words = files.tokenizer(added=(END, IMAGE, PAD), eos="</s>", pad=PAD)
        processor = Processor(tokenizer=words, template=Instructions(), modalities=(image,),
                              max_length=found.backbone.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=tuned.build, keys=tuned.keys(config), parts=open_flamingo.drawing(found), assemble=assemble)


def published() -> dict[str, Any]:
    """The released model's config; the three added tokens are the last ones of the vocabulary."""
    text = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
            "intermediate_size": 11008, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
            "vocab_size": 32003}  # fmt: skip
    return {"model_type": "multimodal_gpt", "text_config": text, "vision_config": CLIP_L, "lora_r": 16,
            "lora_alpha": 16, "cross_attn_every_n_layers": 4, "media_token_id": 32001, "eos_token_id": 2}  # fmt: skip
