"""MESM and FE2E: emotions from raw words, faces and sound, with VGGs that compute only where the words look.

    words -> ALBERT-base v2, first token [B, 768] ┐  each -> linear -> logits of six emotions;
    faces [F, 3, 48, 48] -> VGG -> transformer    ├  one weight for each modality -> logits [B, 6]
    spectrograms [P, 1, 128, 32] -> likewise      ┘

Paper: MESM (arXiv 2103.09666).  Code: wenliangdai/Multimodal-End2end-Sparse (CC BY 4.0), whose state dicts are read.
No weights were published.
Traps: the official sparse form gives SparseConvNet the chosen positions in another order than their features, which
then lie at other frames' positions; here each stays where it was.  The attention that chooses never learns.  How many
heads the transformers have, and the threshold, are in no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones import albert
from polymodal.checkpoints.method_config import method_config
from polymodal.data.labels import labels_of
from polymodal.models.mesm import INPUTS, MesmConfig, official_keys
from polymodal.pipelines.image_text_matching import bert_ids
from polymodal.systems import CheckpointFiles, CheckpointFormat, LoadedModel, ModelSpec, Part, System, Variant, hf
from polymodal.systems.mesm.recipe import RECIPE
from polymodal.systems.mesm.samples import EmotionClips

TUPLES = ("widths", "face", "spectrogram")


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official state dict of published widths, None for another's."""
    needed = ("T.albert.embeddings.word_embeddings.weight", "weighted_fusion.weight", "v_flatten.2.weight")
    if any(name not in shapes for name in needed):
        return None
    words, inner = shapes[needed[0]]
    layer = "T.albert.encoder.albert_layer_groups.0.albert_layers.0"
    width = shapes["T.albert.encoder.embedding_hidden_mapping_in.weight"][0]
    text = {"vocab_size": words, "embedding_size": inner, "hidden_size": width, "num_attention_heads": width // 64,
            "intermediate_size": shapes[f"{layer}.ffn.weight"][0],
            "num_hidden_layers": 12 if width == 768 else 24}  # fmt: skip
    depth = 1 + max(int(name.split(".")[3]) for name in shapes if name.startswith("v_transformer.encoder.layers."))
    return {
        "model_type": "mesm",
        "text_config": text,
        "classes": shapes["t_out.weight"][0],
        "threshold": 0.8 if "V.attn_layers.0.y_affine.weight" in shapes else None,
        "hidden": shapes["v_flatten.2.weight"][1],
        "width": shapes["v_flatten.2.weight"][0],
        "depth": depth,
        "ffn_width": shapes["v_transformer.encoder.layers.0.linear1.weight"][0],
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand."""
    plain = {name: value for name, value in config.items() if name not in ("text_config", "id2label")}
    plain |= {name: tuple(plain[name]) for name in TUPLES if name in plain}
    text = albert.parse_config(config.get("text_config", {}))
    shape = method_config(MesmConfig, plain, "mesm", text=text)
    form = "dense" if shape.threshold is None else f"sparse, {shape.threshold:.0%} of the chances kept"
    towers = [
        Part(slot="encoder", name=f"VGG ({form}), transformer", prefix=f"towers.{name}", output=f"[B, {shape.width}]",
             modality={"vision": "image"}.get(name, name),
             input=f"{INPUTS[name]} [N, {', '.join(map(str, shape.shape(name)))}]")
        for name in INPUTS
    ]  # fmt: skip
    drawing = (
        Part(slot="encoder", name="ALBERT, first token", prefix="text", input="ids [B, T]", output="[B, D]"),
        *towers,
        Part(slot="backbone", name="a classifier for each modality, weighted", prefix="heads", input="three vectors",
             output=f"logits [B, {shape.classes}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(official_keys(shape),), parts=drawing, assemble=assemble)


def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
    """What training reads; emotions are those of `id2label`, else numbers."""
    tokenizer, config = files.tokenizer(), module.config
    named = files.json("config.json").get("id2label")
    emotions = labels_of({"id2label": named}) if named else tuple(map(str, range(config.classes)))
    ids = bert_ids(tokenizer, config.text.positions)

    def collator(objective: Any, learner: Any) -> EmotionClips:
        return EmotionClips(ids=ids, emotions=emotions, side=config.face[1])

    return LoadedModel(model=module, processor=None, labels=emotions, collator=collator)


SYSTEM = System(
    id="mesm",
    aliases=("MESM", "FE2E", "MME2E", "Multimodal End-to-End Sparse Model"),
    year=2021,
    fusion=("method",),
    assembly="Mesm",
    inputs=("text", "image", "audio"),
    outputs=("emotion",),
    headline="emotions from raw faces, sound and words, computed where the words look",
    reference="arXiv 2103.09666",
    formats=(
        CheckpointFormat(
            name="official MME2E and MME2E_Sparse",
            matches=hf("mesm"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("", "state_dict"),
        ),
    ),
    variants=(
        Variant(name="mesm", parameters=37_640_859, config={"model_type": "mesm", "threshold": 0.8}),
        Variant(name="fe2e", parameters=36_782_485, config={"model_type": "mesm"}),
    ),
    recipe=RECIPE,
)
