"""VisCPM-Chat's one file of weights, and the config that says its sizes.

    query, vpm.beit3.*  -> encoders.image       mapping.{0,2} -> connectors.image        llm.* -> backbone

The official code has its sizes in two places: a json of CPM-Bee (`config/cpm-bee-10b.json`), and torchscale's
EncoderConfig in `beit3.py`, here under `vision`.  A file by itself has the published sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.backbones import cpm_bee
from polymodal.backbones.cpm_bee_segments import NumberedIds, TreeContext
from polymodal.checkpoints import beit3
from polymodal.connectors.mlp import MLPConnectorConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality
from polymodal.data.transforms import Squash
from polymodal.encoders.beit3 import BEiT3Config, QueryTower
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs
from polymodal.models.prefix_lm import PrefixLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.viscpm import processor as tree
from polymodal.weights.keytable import KeyTable, drop, rename

CHAT = "viscpm-chat"
MAX_LENGTH = 3512  # 3000 of the prompt and 512 of the answer, as the official calls bound them
UNKNOWN, BEGIN, END, ANSWER = 1, 6, 7, 9  # ids in CPM-Bee's vocabulary
BEE_10B = {"vocab_size": 86583, "dim_model": 4096, "dim_ff": 10240, "num_layers": 48, "num_heads": 32, "dim_head": 128,
           "dropout_p": 0.0, "position_bias_num_buckets": 256, "position_bias_num_segment_buckets": 256,
           "position_bias_max_distance": 2048, "eps": 1e-6, "half": True}  # fmt: skip
SEARCH = {"beams": 3, "length_penalty": 3.0, "max_tokens": 512}


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The parts."""

    tower: BEiT3Config
    queries: int
    backbone: cpm_bee.CPMBeeConfig

    def build(self) -> PrefixLM:
        """Fresh weights."""
        return PrefixLM(
            {"image": QueryTower(self.tower, self.queries)},
            {"image": MLPConnectorConfig().build(self.tower.width, self.backbone.width)},
            self.backbone.build(),
            {"image": UNKNOWN},
            context=TreeContext(BEGIN, ANSWER),
            inputs={"image": ModalityInputs(values="pixel_values", placeholder_mask="image_mask")},
            prepare_inputs=NumberedIds(vocab_size=self.backbone.vocab_size),
        )

    @property
    def keys(self) -> KeyTable:
        """Names on disk -> ours; the heads and the table of words with which BEiT-3 was trained are not used."""
        mapped = (rename(f"mapping.{theirs}.{leaf}", f"connectors.image.layers.{ours}.{leaf}")
                  for theirs, ours in ((0, 0), (2, 1)) for leaf in ("weight", "bias"))  # fmt: skip
        own = KeyTable((rename("query", "encoders.image.queries"), drop("vpm.mim_head.**"), *mapped))
        return (
            own
            + beit3.keys(self.tower).prefixed("vpm.beit3.", "encoders.image.tower.")
            + cpm_bee.KEYS.prefixed("llm.", "backbone.")
        )

    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        side, width, count = self.tower.image_size, self.backbone.width, self.queries
        seen = f"[N, {count}, {self.tower.width}]"
        return (
            Part(slot="encoder", modality="image", name=f"BEiT-3 with {count} queries", prefix="encoders.image",
                 input=f"[N, 3, {side}, {side}]", output=seen, tokens=count),
            Part(slot="connector", modality="image", name="2 linears, GELU", prefix="connectors.image",
                 input=seen, output=f"[N, {count}, {width}]", tokens=count),
            Part(slot="backbone", name="CPM-Bee, reads a tree of segments", prefix="backbone",
                 input=f"[B, T, {width}]", output="[B, T, V]"),
        )  # fmt: skip

    def assemble(self, module: Any, files: CheckpointFiles) -> LoadedModel:
        """Conversations about one picture, from a folder with CPM-Bee's vocabulary."""
        side = self.tower.image_size
        tokenizer = files.tokenizer(control=(tree.UNKNOWN, tree.BEGIN, tree.END, tree.ROOT, tree.ANSWER))
        image = Modality(name="image", placeholder=tree.UNKNOWN, transform=Squash(height=side, width=side),
                         tokens=SameCount(self.queries), before=tree.IMAGE_BEFORE, after=tree.IMAGE_AFTER)  # fmt: skip
        processor = tree.TreeProcessor(
            size=self.backbone.vocab_size, tokenizer=tokenizer, template=tree.TEMPLATE, modalities=(image,),
            rewrite=tree.one_question, finish=tree.with_image_mask, max_length=self.backbone.max_length,
        )  # fmt: skip
        return LoadedModel(model=module, processor=processor, sampling=SEARCH)


def parse_backbone(config: Mapping[str, Any]) -> cpm_bee.CPMBeeConfig:
    """Raises ConfigError for a vocabulary without the tokens that a tree is written with."""
    found = cpm_bee.parse_config(config, config.get("max_length", MAX_LENGTH))
    if found.vocab_size <= ANSWER:
        raise ConfigError(f"viscpm: vocab_size {found.vocab_size}; the tokens of a tree have ids up to {ANSWER}")
    return found


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The json of CPM-Bee with `query_num` and `vision` beside it, at any size."""
    queries = config.get("query_num", 64)
    found = Chat(tower=beit3.parse_config(config.get("vision") or {}), queries=queries, backbone=parse_backbone(config))
    most = found.tower.text_positions - 2
    if not isinstance(queries, int) or not 1 <= queries <= most:
        raise ConfigError(f"viscpm: query_num: expected 1 to {most}, the positions of text, found {str(queries)[:40]}")
    return ModelSpec(build=found.build, keys=(found.keys,), parts=found.drawing(), assemble=found.assemble,
                     ends=((END,), 0))  # fmt: skip


def infer_backbone(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """CPM-Bee's sizes from the tensors below `llm.`; buckets are half distances and half ways, as in all of them."""
    words, bias = (shapes.get(f"llm.{name}") for name in
                   ("input_embedding.weight", "position_bias.relative_attention_bias"))  # fmt: skip
    gate = shapes.get("llm.encoder.layers.0.ffn.ffn.w_in.w_0.weight")
    query = shapes.get("llm.encoder.layers.0.self_att.self_attention.project_q.weight")
    if words is None or bias is None or gate is None or query is None:
        return None
    layers = {name.split(".")[3] for name in shapes if name.startswith("llm.encoder.layers.")}
    return {**BEE_10B, "vocab_size": words[0], "dim_model": words[1], "dim_ff": gate[0], "num_layers": len(layers),
            "num_heads": bias[1], "dim_head": query[0] // bias[1], "position_bias_num_buckets": bias[0] // 2,
            "position_bias_num_segment_buckets": bias[0] - bias[0] // 2}  # fmt: skip


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of a file of VisCPM-Chat without one; heads of BEiT-3 are 64 wide."""
    queries, found = shapes.get("query"), infer_backbone(shapes)
    patch = shapes.get("vpm.beit3.vision_embed.proj.weight")
    places = [shapes.get(f"vpm.beit3.encoder.embed_positions.{kind}.weight") for kind in "AB"]
    hidden = shapes.get("vpm.beit3.encoder.layers.0.ffn.A.fc1.weight")
    if queries is None or found is None or patch is None or hidden is None or places[0] is None or places[1] is None:
        return None
    layers = {name.split(".")[4] for name in shapes if name.startswith("vpm.beit3.encoder.layers.")}
    vision = {"img_size": round((places[0][0] - 3) ** 0.5) * patch[2], "patch_size": patch[2],
              "encoder_embed_dim": patch[0], "encoder_attention_heads": max(patch[0] // 64, 1),
              "encoder_ffn_embed_dim": hidden[0], "encoder_layers": len(layers),
              "max_source_positions": places[1][0]}  # fmt: skip
    return {"model_type": CHAT, **found, "query_num": queries[0], "vision": vision}
