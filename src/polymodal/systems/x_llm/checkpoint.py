"""X-LLM's checkpoints: LAVIS' names in one file, or EVA's, LAVIS' and ChatGLM's files (`checkpoints/lavis.py`).

    visual_encoder.* ln_vision.* -> encoders.image     Qformer.bert.* query_tokens opt_proj.*     -> connectors.image
    video_query_tokens video_proj.*                    -> connectors.image.video_*
    pre_bert_proj.* speech_bert_adaptor.* post_bert_proj.* | speech_feat_proj.*                   -> connectors.features
    opt_model.* (ChatGLM-6B, hub's layout)             -> backbone

Traps: `opt_` is history, the language model is ChatGLM; the adaptor's words and pooler are never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import chatglm, encoder
from polymodal.backbones.chatglm import GLMConfig, GLMPositions
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.chatglm_picture import END, MASK, START, TEMPLATE, without_positions
from polymodal.checkpoints.clips import second_of
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.connectors import qformer
from polymodal.connectors.bert_adaptor import BertAdaptorConfig, BertBodyConfig
from polymodal.connectors.two_queries import TwoQueriesConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Array, Image, Media, Text, Video
from polymodal.data.messages import Message
from polymodal.data.modalities import sequences
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Words
from polymodal.data.transforms import ShorterSideCrop, transform_frames
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.prefix_lm import PrefixLM
from polymodal.nn.block import PostNormBlockConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Squeeze

INPUTS = {
    "image": ModalityInputs(values="pixel_values"),
    "video": ModalityInputs(values="video_values", connector=("frame_counts",), uses="image"),
    "features": ModalityInputs(values="speech_input", connector=("lengths=speech_lengths",)),
}
TAGS = {"image": "Image", "video": "Video", "features": "Speech"}
FRAMES, WIDTH = 10, 512  # frames of a video at most; numbers of a feature
ASK, ANSWER = "\u95ee\uff1a", "\n\u7b54\uff1a"
ADAPTORS = ("bert", "fc")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size.

    vision_config, qformer_config, bert_config, text_config: sizes, as of EVA ViT-g, BLIP-2, bert-base-chinese and
    ChatGLM-6B where they are left out.
    """
    tower = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    words = {"bos_token_id": 130004, "eos_token_id": 130005, "pad_token_id": 3, **(config.get("text_config") or {})}
    text = chatglm.parse_config(words)
    asked = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                 source_width=tower.width)  # fmt: skip
    if (kind := config.get("speech_adaptor_type", "bert")) not in ADAPTORS:
        raise ConfigError(f"x-llm: speech_adaptor_type {kind!r} is not supported; expected {' or '.join(ADAPTORS)}")
    bert = body_of(config.get("bert_config") or {}) if kind == "bert" else None
    seen = TwoQueriesConfig(qformer=asked, out_width=text.width)
    heard = BertAdaptorConfig(in_width=config.get("speech_feature_size", WIDTH), out_width=text.width, bert=bert)
    places = {name: text.vocab_size + index for index, name in enumerate(INPUTS)}

    def build() -> PrefixLM:
        return PrefixLM({"image": tower.build(), "features": nn.Identity()},
                        {"image": seen.build(), "features": heard.build()}, text.build(), places, inputs=INPUTS,
                        prepare_inputs=Prepared(GLMPositions(start=words["bos_token_id"])))  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(control=(MASK, START, END))
        processor = Processor(tokenizer=tokenizer, template=TEMPLATE, rewrite=one_question, finish=without_positions,
                              modalities=modalities(files, tower, seen, heard, places),
                              max_length=text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        lavis.vision_keys()
        + lavis.qformer_keys(asked, "connectors.image.qformer.")
        + KeyTable((rename("video_query_tokens", "connectors.image.video_queries", Squeeze(0)),))
        + qformer_lm.linear("opt_proj", "connectors.image.proj")
        + qformer_lm.linear("video_proj", "connectors.image.video_proj")
        + _adaptor_keys(kind)
        + chatglm.hf_keys(text).prefixed("opt_model.", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, seen, heard, text), assemble=assemble,
                     ends=((words["eos_token_id"],), words["pad_token_id"]))  # fmt: skip


def body_of(config: Mapping[str, Any]) -> BertBodyConfig:
    """What is read of a BERT."""
    found = encoder.parse_config(config)
    blocks = tuple(block for block in found.blocks if isinstance(block, PostNormBlockConfig))
    return BertBodyConfig(width=found.width, blocks=blocks, positions=found.positions, segments=found.segments,
                          norm=found.norm)  # fmt: skip


def _adaptor_keys(kind: str) -> KeyTable:
    if kind == "fc":
        return qformer_lm.linear("speech_feat_proj", "connectors.features.out_proj")
    unread = KeyTable((drop("embeddings.word_embeddings.weight"), drop("pooler.**")))
    inner = (unread + encoder.BODY_KEYS).prefixed("speech_bert_adaptor.", "connectors.features.body.")
    outer = qformer_lm.linear("pre_bert_proj", "connectors.features.in_proj")
    return inner + outer + qformer_lm.linear("post_bert_proj", "connectors.features.out_proj")


@dataclass(frozen=True)
class Prepared:
    """ChatGLM's positions; frames without counts are those of one video."""

    positions: GLMPositions
    input_names: frozenset[str] = frozenset()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds `position_ids`, and `frame_counts` where there are frames."""
        frames = batch.get("video_values")
        return {**self.positions(batch), **({} if frames is None else {"frame_counts": (len(frames),)})}


def one_question(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation as one question: what is shown, what is heard, then the words, by rounds from the second on.

    Raises PromptError for a second picture or video, or a second utterance.
    """
    media = [part for message in messages for part in message.media]
    shown = [item for item in media if isinstance(item, Image | Video)]
    heard = [item for item in media if not isinstance(item, Image | Video)]
    if len(shown) > 1 or len(heard) > 1:
        raise PromptError(
            "messages: this model takes 1 picture or video and 1 utterance, in front of the conversation; found "
            f"{len(shown)} and {len(heard)}"
        )
    answered = messages[-1].role == "assistant"
    rounds = messages[:-1] if answered else messages
    numbered = sum(message.role != "assistant" for message in rounds) > 1
    said, count = "", 0
    for message in rounds:
        if message.role == "assistant":
            said += f"{message.text}\n"
        else:
            said += (f"[Round {count}]\n" if numbered else "") + f"{ASK}{message.text}{ANSWER}"
            count += 1
    parts: tuple[Text | Media, ...] = (*shown, *heard, Text(said))
    question = Message(role="user", parts=parts)
    return (question, replace(messages[-1], parts=(Text(messages[-1].text),))) if answered else (question,)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A video -> float32 [F, 3, side, side]: a frame a second from its first on, at most FRAMES of them."""

    transform: ShorterSideCrop

    def __call__(self, video: Video) -> Tensor:
        times = video.frame_times
        chosen = [float(time) for time in times[:: second_of(times)][:FRAMES]]
        return transform_frames(self.transform, video.clip(times=chosen).frames)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The acoustic features of an utterance, float32 [T, width]; longest: rows at most."""

    width: int
    longest: int | None

    def __call__(self, item: Array) -> Tensor:
        """MediaError for numbers of another shape, or too many rows."""
        values = torch.as_tensor(item.values, dtype=torch.float32)
        if values.dim() != 2 or values.shape[1] != self.width or not len(values):
            raise MediaError(f"{item!r}: expected rows of {self.width} features, found {list(values.shape)}")
        if self.longest is not None and len(values) > self.longest:
            raise MediaError(
                f"{item!r}: {len(values)} rows of features, this model takes {self.longest} at most; cut the utterance"
            )
        return values


@dataclass(frozen=True)
class Rows:
    """As many tokens as rows, times `each`."""

    each: int = 1

    def __call__(self, values: Tensor) -> int:
        return len(values) * self.each


def padded(items: Sequence[Tensor]) -> dict[str, Any]:
    """`speech_input` [N, T, width], zero behind each, and `speech_lengths`, on the host."""
    return {"speech_input": nn.utils.rnn.pad_sequence(list(items), batch_first=True),
            "speech_lengths": tuple(map(len, items))}  # fmt: skip


def modalities(
    files: CheckpointFiles,
    tower: ViTConfig,
    seen: TwoQueriesConfig,
    heard: BertAdaptorConfig,
    places: Mapping[str, int],
) -> tuple[Modality, ...]:
    """Pictures, videos and the features of speech, each between its tags, which are tokenised by themselves."""
    side = side_of(tower)
    still = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
    moving = Frames(transform=ShorterSideCrop(size=side, crop=side, crop_rounding="even"))
    spoken = Spoken(width=heard.in_width, longest=heard.longest)
    rules: dict[str, dict[str, Any]] = {
        "image": {"transform": still, "tokens": SameCount(seen.tokens)},
        "video": {"transform": moving, "tokens": Rows(seen.tokens),
                  "collate": sequences("video_values", "frame_counts")},
        "features": {"transform": spoken, "tokens": Rows(), "collate": padded},
    }  # fmt: skip
    return tuple(
        Modality(name=name, placeholder="", placeholder_id=places[name], before=(Words(text=f"<{TAGS[name]}>"),),
                 after=(TEXT_START, Words(text=f"</{TAGS[name]}>"), TEXT_START), **rule)
        for name, rule in rules.items()
    )  # fmt: skip


def side_of(tower: ViTConfig) -> int:
    """Pixels of a side of the tower's square pictures."""
    side = tower.image_size
    return side if isinstance(side, int) else side[0]


def _drawing(tower: ViTConfig, seen: TwoQueriesConfig, heard: BertAdaptorConfig, text: GLMConfig) -> tuple[Part, ...]:
    side, width, patches = side_of(tower), text.width, f"[N, {tower.tokens}, {tower.width}]"
    spoken = f"[N, T, {heard.in_width}]"
    return (
        Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=patches, tokens=tower.tokens),
        Part(slot="connector", modality="image", name=f"Q-Former of {seen.tokens} queries, others for frames",
             prefix="connectors.image", input=patches, output=f"[N, {seen.tokens}, {width}]", tokens=seen.tokens),
        Part(slot="connector", modality="features", name="linear, BERT, linear" if heard.bert else "linear",
             prefix="connectors.features", input=spoken, output=f"N of [t, {width}]"),
        Part(slot="backbone", name="ChatGLM-6B, sees its prompt both ways", prefix="backbone",
             input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
