"""LLaMA-VID's checkpoints: LLaMA's names, `model.vlm_att_*`, and EVA's own file, which config.json names.

    model.vlm_att_encoder.bert.* model.vlm_att_query  InstructBLIP's Q-Former    -> connectors.video.qformer
    model.vlm_att_{ln, projector, key_projector, val_projector}.* mm_projector.* -> connectors.video
    eva_vit_g.pth (`mm_vision_tower`)  40 blocks, of which 39 are run            -> encoders.video

Traps: positions of EVA's file are those of 224 pixels and are resized where the processor's name says 336; the
Q-Former's tokenizer is that of bert-base-uncased, whose folder lies in the checkpoint's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.checkpoints.llava_format import llava_format
from polymodal.connectors import hf_mlp, qformer
from polymodal.connectors.context_tokens import ContextTokensConfig
from polymodal.data.chat_formats import VICUNA_SYSTEM, vicuna
from polymodal.data.processor import Processor
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError, WeightsError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.llama_vid.processing import modalities, with_questions
from polymodal.weights.folder import weights_in
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.merged import MergedTensors, locations
from polymodal.weights.operations import ResizePositions, Squeeze

INSIDE = "model.vision_tower.vision_tower."
PLACEHOLDERS = {"image": -200, "video": -201}  # the official code has -200 for both
READER = "bert-base-uncased"
FILE_SIDE = 224  # pixels of a side for which EVA's file has positions
DEC = 30523  # words of bert-base-uncased and [DEC]


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported.

    vision_config, qformer_config: sizes other than EVA ViT-g's and BERT's, as tests have them.
    """
    _check(config)
    text, text_keys = hf_text.decoder_of({**config, "model_type": "llama"})
    side = _side(config)
    sizes = {**(config.get("vision_config") or {}), "image_size": side}
    tower = replace(eva_vit.parse_config(sizes, official=True), final_norm=None)
    asked = qformer.parse_config({"vocab_size": DEC, **(config.get("qformer_config") or {})}, text="full",
                                 queries=config.get("num_query", 32), source_width=tower.width)  # fmt: skip
    project, names = hf_mlp.parse_projector_type(config.get("mm_projector_type") or "linear")
    connector = ContextTokensConfig(qformer=asked, out_width=text.width, grid=_grid(config), project=project)
    tokens = connector.tokens(tower.patches)

    def build() -> MultimodalLM:
        reads = {"input_ids": "qformer_input_ids", "attention_mask": "qformer_attention_mask"}
        seen = tuple(f"{ours}={theirs}" for ours, theirs in reads.items())
        filmed = ("frame_counts", *(f"{ours}=video_{theirs}" for ours, theirs in reads.items()))
        inputs = {"video": ModalityInputs(values="video_values", connector=filmed),
                  "image": ModalityInputs(values="pixel_values", uses="video", connector=seen)}  # fmt: skip
        return MultimodalLM({"video": tower.build()}, {"video": connector.build()}, text.build(), PLACEHOLDERS,
                            inputs=inputs)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer()
        template, after = llava_format(files, tokenizer, vicuna(VICUNA_SYSTEM))
        reader = CheckpointFiles(files.folder / READER).tokenizer()
        padded = config.get("image_aspect_ratio") == "pad"
        processor = Processor(
            tokenizer=tokenizer, template=template, rewrite=with_questions,
            modalities=modalities(side, tokens, padded, after, PLACEHOLDERS, reader),
            max_length=max(text.max_length, config.get("max_token") or 0),
        )  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    rest = text_keys.prefixed(target="backbone.") + _connector_keys(asked)
    rest += names.prefixed("model.mm_projector", "connectors.video.project.")
    keys = tuple(rest + table.prefixed(INSIDE, "encoders.video.") for table in _tower_keys(tower, _file_side(config)))
    return ModelSpec(build=build, keys=keys, parts=_drawing(tower, tokens, text.width), assemble=assemble)


def _check(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for what is not supported, by its name in the config."""
    kind, tower = str(config.get("bert_type")), str(config.get("mm_vision_tower") or "")
    if not kind.startswith("qformer_pretrain"):
        raise ConfigError(f"llama-vid: bert_type {kind!r} is not supported; expected qformer_pretrain")
    if not any(word in tower.lower() for word in ("eva", "lavis")):
        raise ConfigError(f"llama-vid: mm_vision_tower {tower!r} is not supported; expected EVA's file eva_vit_g.pth")
    if (config.get("mm_vision_select_feature") or "patch") != "patch" or config.get("mm_use_im_start_end"):
        raise ConfigError(
            "llama-vid: mm_vision_select_feature other than patch and mm_use_im_start_end are not supported"
        )


def _side(config: Mapping[str, Any]) -> int:
    """Pixels of a side: the last number in the name of the processor's folder."""
    name = Path(str(config.get("image_processor") or f"clip-patch14-{_file_side(config)}")).name
    number = re.search(r"(\d+)$", name)
    if number is None:
        raise ConfigError(f"llama-vid: image_processor {name!r} does not end in the pixels of a side")
    return int(number[1])


def _file_side(config: Mapping[str, Any]) -> int:
    """Pixels of a side for which the tower's file has positions."""
    return int((config.get("vision_config") or {}).get("image_size", FILE_SIDE))


def _grid(config: Mapping[str, Any]) -> int | None:
    """Content tokens along a side: `compress_type` is null, "mean" or "grid:N"."""
    kind = config.get("compress_type")
    found = re.fullmatch(r"(mean)|grid:(\d+)", str(kind))
    if kind is not None and found is None:
        raise ConfigError(f"llama-vid: compress_type {kind!r} is not supported; expected null, mean or grid:N")
    return None if found is None else 1 if found[1] else int(found[2])


def _tower_keys(tower: ViTConfig, file_side: int) -> tuple[KeyTable, ...]:
    """EVA's names; positions resized where the file's are of another side, then as they are, for saved models."""
    if file_side == tower.image_size:
        return (eva_vit.OFFICIAL_KEYS,)
    patch = tower.patch_size
    assert isinstance(patch, int)
    grid = ResizePositions((file_side // patch,) * 2, tower.grid_sides, leading=1)
    resized = rename("pos_embed", "positions", Squeeze(), grid)
    rows = tuple(resized if row.sources == ("pos_embed",) else row for row in eva_vit.OFFICIAL_KEYS.rows)
    return KeyTable(rows), eva_vit.OFFICIAL_KEYS


def _connector_keys(asked: qformer.QFormerConfig) -> KeyTable:
    ours = "connectors.video."
    keys = qformer_lm.QUERIES.respelled({"query_tokens": "model.vlm_att_query"}).prefixed("", f"{ours}qformer.")
    keys += qformer.lavis_keys(asked).prefixed("model.vlm_att_encoder.bert.", f"{ours}qformer.")
    for theirs, mine in {"ln": "norm", "projector": "query", "key_projector": "key", "val_projector": "value"}.items():
        keys += qformer_lm.linear(f"model.vlm_att_{theirs}", ours + mine)
    return keys


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """All tensors under official names, EVA's file too; WeightsError without it."""
    whole = weights_in(files.folder)
    if any(name.startswith(INSIDE) for name in whole):
        return whole
    name = str(files.json("config.json").get("mm_vision_tower") or "")
    places = (Path(name), files.folder / name, files.folder / Path(name).name)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise WeightsError(
            f"{files.folder} leaves out its vision tower {name!r}; fetch that file and put it at {places[-1]}"
        )
    return MergedTensors.of(locations(whole) | lavis.eva_named(weights_in(found, ("model", "")), INSIDE))


def _drawing(tower: ViTConfig, tokens: int, width: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[F, {tower.tokens}, {tower.width}]"
    return (
        Part(slot="encoder", modality="video", name="EVA ViT-g/14, 39 blocks, per frame", prefix="encoders.video",
             input=f"[F, 3, {side}, {side}]", output=seen),
        Part(slot="connector", modality="video", name="what the question finds, and what is there",
             prefix="connectors.video", input=seen, output=f"[F * {tokens}, {width}]", tokens=tokens),
        Part(slot="backbone", name="Vicuna", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
