"""What MiniGPT-4 and MiniGPT-v2 share: frozen EVA ViT-g, a connector that ends in one linear, LLaMA, official names.

    visual_encoder.* ln_vision.*   query_tokens Qformer.bert.*   llama_proj.*   llama_model.*

The official code has no config.json; ours names the sizes: vision_config, qformer_config, text_config, has_qformer,
num_query_token, image_token_index, and lora_r with lora_alpha where the language model lies inside PEFT.
Traps: the id of the placeholder lies behind the vocabulary; without the Q-Former the class token is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.peft_lm import LLAMA, adapted_keys, build_adapted, wrapped_keys
from polymodal.checkpoints.qformer_chat import PICTURE
from polymodal.checkpoints.record import CheckpointFiles, Part
from polymodal.connectors import qformer
from polymodal.connectors.neighbours import NeighboursConfig
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.hf_image import transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality
from polymodal.data.template import TEXT_START, Words
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.weights.keytable import KeyTable, drop

HERE = "<ImageHere>"  # one per feature of a picture
BEFORE, AFTER = (Words(text="<Img>"),), (TEXT_START, Words(text="</Img> "))


@dataclass(frozen=True, kw_only=True)
class MiniGPT:
    """The parts of one config.  rank, alpha: of the low-rank paths beside `targets`; rank 0: there are none."""

    encoder: ViTConfig
    connector: QFormerConnectorConfig | NeighboursConfig
    text: hf_text.TextModel
    placeholder: int
    targets: tuple[str, ...] = ()
    rank: int = 0
    alpha: float = 16

    @property
    def tokens(self) -> int:
        """Features of a picture that enter the language model."""
        connector = self.connector
        return connector.tokens if isinstance(connector, QFormerConnectorConfig) else connector.tokens(
            self.encoder.tokens)  # fmt: skip

    def build(self) -> MultimodalLM:
        decoder: Any = self.text.config
        backbone: Any = build_adapted(decoder, self.targets, self.rank, self.alpha) if self.rank else decoder.build()
        return MultimodalLM({"image": self.encoder.build()}, {"image": self.connector.build()}, backbone,
                            {"image": self.placeholder},
                            positions_ignore_padding=self.text.positions_ignore_padding)  # fmt: skip

    @property
    def keys(self) -> tuple[KeyTable, ...]:
        """The official names, one table for each spelling of the language model."""
        body = lavis.vision_keys() + KeyTable((drop("t5_proj.**"),))
        if isinstance(self.connector, QFormerConnectorConfig):
            body += lavis.qformer_keys(self.connector.qformer, "connectors.image.qformer.")
        body += qformer_lm.linear("llama_proj", "connectors.image.proj")
        if not self.rank:
            return tuple(body + table.prefixed("llama_model.", "backbone.") for table in self.text.keys)
        adapted = [adapted_keys(table, self.targets).prefixed(LLAMA, "backbone.") for table in self.text.keys]
        spellings = (each for table in adapted for each in (table, wrapped_keys(table, self.targets)))
        return tuple(body + each for each in spellings)

    def drawing(self, language: str) -> tuple[Part, ...]:
        """The boxes of `show`.  language: what people call the decoder."""
        side, width = self.encoder.image_size, self.text.config.width
        seen, asks = f"[N, {self.encoder.tokens}, {self.encoder.width}]", isinstance(self.connector, NeighboursConfig)
        name = "4 neighbours joined + linear" if asks else f"Q-Former of {self.tokens} queries + linear"
        return (
            Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
                 input=f"[N, 3, {side}, {side}]", output=seen, tokens=self.encoder.tokens),
            Part(slot="connector", modality="image", name=name, prefix="connectors.image", input=seen,
                 output=f"[N, {self.tokens}, {width}]", tokens=self.tokens),
            Part(slot="backbone", name=language, prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
        )  # fmt: skip

    def picture(self, files: CheckpointFiles) -> Modality:
        """`<Img>` features `</Img> `, the words around the features tokenised by themselves."""
        side = self.encoder.image_size
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        return Modality(name="image", placeholder=HERE, transform=transform, tokens=SameCount(self.tokens),
                        before=BEFORE, after=AFTER)  # fmt: skip


def parse_config(config: Mapping[str, Any], targets: Sequence[str] = ()) -> MiniGPT:
    """The parts a config describes.  targets: linears of the attention that lora_r gives low-rank paths to."""
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    text = hf_text.parse_config(config.get("text_config") or {})
    connector: QFormerConnectorConfig | NeighboursConfig
    if config.get("has_qformer", True):
        asked = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                     source_width=encoder.width)  # fmt: skip
        connector = QFormerConnectorConfig(qformer=asked, out_width=text.config.width)
    else:
        encoder = replace(encoder, keep_class=False)
        connector = NeighboursConfig(width=encoder.width, out_width=text.config.width)
    return MiniGPT(
        encoder=encoder, connector=connector, text=text, targets=tuple(targets),
        placeholder=config.get("image_token_index", text.config.vocab_size),
        rank=(config.get("lora_r") or 0) if targets else 0, alpha=config.get("lora_alpha", 16),
    )  # fmt: skip
