"""X-LLM's checkpoints: LAVIS' names in one file, or EVA's, LAVIS' and ChatGLM's files (`checkpoints/lavis.py`).

    visual_encoder.* ln_vision.* -> encoders.image     Qformer.bert.* query_tokens opt_proj.*     -> connectors.image
    video_query_tokens video_proj.*                    -> connectors.image.video_*
    pre_bert_proj.* speech_bert_adaptor.* post_bert_proj.* | speech_feat_proj.*                   -> connectors.features
    opt_model.* (ChatGLM-6B, hub's layout)             -> backbone

Traps: `opt_` is history, the language model is ChatGLM; the adaptor's words and pooler are never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal.backbones import chatglm, encoder
from polymodal.backbones.chatglm import GLMConfig, GLMPositions
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.chatglm_picture import END, MASK, START, TEMPLATE, without_positions
from polymodal.connectors import qformer
from polymodal.connectors.bert_adaptor import BertAdaptorConfig, BertBodyConfig
from polymodal.connectors.two_queries import TwoQueriesConfig
from polymodal.data.processor import Processor
from polymodal.encoders import cif_conformer, eva_vit
from polymodal.encoders.cif_conformer import CifConformerConfig, SoundOrFeatures
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.prefix_lm import PrefixLM
from polymodal.nn.block import PostNormBlockConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.x_llm.processing import modalities, one_question, placed
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Squeeze

INPUTS = {
    "image": ModalityInputs(values="pixel_values"),
    "video": ModalityInputs(values="video_values", connector=("frame_counts",), uses="image"),
    "features": ModalityInputs(values="speech_input", connector=("lengths=speech_lengths",)),
}
SOUND = {"audio": ModalityInputs(values="audio_values", encoder=("frames=audio_frames",), uses="features")}
WIDTH = 512  # numbers of a feature
ADAPTORS = ("bert", "fc")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size.

    vision_config, qformer_config, bert_config, text_config: sizes, as of EVA ViT-g, BLIP-2, bert-base-chinese and
    ChatGLM-6B where they are left out.  speech_config: of a speech encoder, all of them; without it there is none.
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
    ears = ears_of(config.get("speech_config"), heard.in_width)
    inputs = INPUTS if ears is None else {**INPUTS, **SOUND}
    places = {name: text.vocab_size + index for index, name in enumerate(inputs)}

    def build() -> PrefixLM:
        return PrefixLM({"image": tower.build(), "features": SoundOrFeatures(ears)},
                        {"image": seen.build(), "features": heard.build()}, text.build(), places, inputs=inputs,
                        prepare_inputs=Prepared(GLMPositions(start=words["bos_token_id"])))  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(control=(MASK, START, END))
        encoder = None if ears is None else module.get_submodule("encoders.features.encoder")
        rules = modalities(files, side_of(tower), seen.tokens, heard, encoder)  # type: ignore[arg-type]
        processor = Processor(tokenizer=tokenizer, template=TEMPLATE, rewrite=one_question, finish=without_positions,
                              modalities=placed(rules, places), max_length=text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        lavis.vision_keys()
        + lavis.qformer_keys(asked, "connectors.image.qformer.")
        + KeyTable((rename("video_query_tokens", "connectors.image.video_queries", Squeeze(0)),))
        + qformer_lm.linear("opt_proj", "connectors.image.proj")
        + qformer_lm.linear("video_proj", "connectors.image.video_proj")
        + _adaptor_keys(kind)
        + cif_conformer.own_keys().prefixed("speech_encoder.", "encoders.features.encoder.")
        + chatglm.hf_keys(text).prefixed("opt_model.", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, seen, heard, text), assemble=assemble,
                     ends=((words["eos_token_id"],), words["pad_token_id"]))  # fmt: skip


def ears_of(config: Mapping[str, Any] | None, out_width: int) -> CifConformerConfig | None:
    """The speech encoder of a `speech_config`; raises ConfigError where a size is missing, since none was published."""
    if config is None:
        return None
    sizes = {"hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads",
             "intermediate_size": "ffn_width", "num_mel_bins": "mels",
             "conv_depthwise_kernel_size": "kernel"}  # fmt: skip
    if missing := [name for name in sizes if name not in config]:
        raise ConfigError(f"x-llm: speech_config lacks {', '.join(missing)}; no size of the encoder was published")
    more = {ours: config[theirs] for theirs, ours in
            (("conv_cif_width", "look"), ("cif_threshold", "threshold"), ("tail_handling_firing_threshold", "tail"))
            if theirs in config}  # fmt: skip
    return CifConformerConfig(out_width=out_width, **{ours: config[theirs] for theirs, ours in sizes.items()}, **more)


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
    """ChatGLM's positions; frames without counts are those of one video, sound without lengths is not padded."""

    positions: GLMPositions
    input_names: frozenset[str] = frozenset()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds `position_ids`, and `frame_counts` and `audio_frames` where there is what they count."""
        found: dict[str, Any] = {**self.positions(batch)}
        film, sound = batch.get("video_values"), batch.get("audio_values")
        if film is not None:
            found["frame_counts"] = (len(film),)
        if sound is not None:
            found["audio_frames"] = (sound.shape[1],) * len(sound)
        return found


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
