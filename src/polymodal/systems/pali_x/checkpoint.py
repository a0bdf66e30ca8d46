"""PaLI-X as a checkpoint: ViT-22B, a linear, and an encoder-decoder by T5's config; its processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import t5
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Video
from polymodal.data.normalise import HALF
from polymodal.data.processor import Modality
from polymodal.data.transforms import ImageTransform, Squash, transform_frames
from polymodal.encoders import vit_22b
from polymodal.encoders.frames import JoinedFrames
from polymodal.errors import ConfigError
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.pali_x.boxes import ground
from polymodal.systems.pali_x.prompts import TEMPLATE, prompted
from polymodal.weights.keytable import KeyTable

UL2 = {"model_type": "t5", "d_model": 4096, "d_kv": 256, "d_ff": 16384, "num_layers": 50, "num_heads": 16,
       "feed_forward_proj": "gated-silu", "vocab_size": 250_112, "tie_word_embeddings": False,
       "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip
"""UL2's numbers with 50 layers in place of 32, and the multilingual vocabulary of mT5, which PaLI has."""
FRAMES = 8


def published(side: int) -> dict[str, Any]:
    """A config.json of the published size for pictures of that side."""
    return {"model_type": "pali-x", "text_config": UL2, "vision_config": {"model_type": "vit-22b", "image_size": side}}


def frames_of(item: Video, transform: ImageTransform, count: int) -> Tensor:
    """So many frames, spread evenly -> float32 [F, 3, H, W]."""
    return transform_frames(transform, item.clip(frames=count).frames)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size; raises ConfigError for what is not supported."""
    given = config.get("text_config") or {}
    if given.get("model_type", "t5") != "t5":
        raise ConfigError(f"pali-x: text_config.model_type: expected 't5', found {str(given['model_type'])[:40]!r}")
    frames = config.get("video_frames", FRAMES)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ConfigError(f"pali-x: video_frames: expected a whole number above 0, found {str(frames)[:40]!r}")
    tower, text = vit_22b.parse_config(config.get("vision_config") or {}), t5.parse_config({**UL2, **given})
    connector, patches = LinearConnectorConfig(), tower.tokens
    # No token stands for a picture: features stand in front, at ids behind the vocabulary.
    placeholders = {"image": text.vocab_size, "video": text.vocab_size + 1}
    inputs = {"video": ModalityInputs(values="video_values", uses="image")}

    def build() -> EncoderDecoderLM:
        backbone: Any = text.build()
        projection = connector.build(tower.width, text.width)
        return EncoderDecoderLM({"image": JoinedFrames(tower.build())}, {"image": projection}, backbone, placeholders,
                                inputs=inputs)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        side: Any = tower.image_size
        still = Squash(height=side, width=side, mean=HALF, std=HALF)
        image = Modality(name="image", placeholder="<image>", placeholder_id=placeholders["image"], transform=still,
                         tokens=SameCount(patches))  # fmt: skip
        video = Modality(
            name="video",
            placeholder="<video>",
            placeholder_id=placeholders["video"],
            transform=partial(frames_of, transform=still, count=frames),
            tokens=SameCount(frames * patches),
        )
        processor = EncoderDecoderProcessor(
            tokenizer=files.tokenizer(eos="</s>", pad="<pad>"), template=TEMPLATE, modalities=(image, video),
            rewrite=prompted, start_id=text.start_id, max_length=config.get("max_length"))  # fmt: skip
        return LoadedModel(model=module, processor=processor, ground=ground)

    names = {f"visual_projection.{leaf}": f"connectors.image.proj.{leaf}" for leaf in ("weight", "bias")}
    body = vit_22b.keys().prefixed("vision_model.", "encoders.image.encoder.") + KeyTable.of(names)
    keys = tuple(body + table.prefixed("language_model.", "backbone.") for table in t5.hf_keys(text))
    seen = f"[N, {patches}, {tower.width}]"
    parts = (
        Part(slot="encoder", modality="image", name=f"ViT, {len(tower.blocks)} blocks", prefix="encoders.image",
             input=f"[N, 3, {tower.image_size}, {tower.image_size}] or frames", output=seen, tokens=patches),
        Part(slot="connector", modality="image", name="linear", prefix="connectors.image", input=seen,
             output=f"[N, {patches}, {text.width}]", tokens=patches),
        Part(slot="backbone", name="UL2, encoder and decoder", prefix="backbone", input=f"[B, S, {text.width}]",
             output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=keys, parts=parts, assemble=assemble)
