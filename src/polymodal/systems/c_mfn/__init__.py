"""C-MFN: is a punchline funny, from its words, voice and face and those of the sentences before it (UR-FUNNY).

    5 sentences of context, 20 words each -> LSTMs -> first cell states ┐
    the same sentences -> transformer, 6 blocks    -> first memory      ├-> memory fusion network -> logit
    punchline, 20 words of text, voice, face: [B, 20, 300], [.., 81], [.., 75]  ┘

Paper: UR-FUNNY (arXiv 1904.06618).  Code: matalvepu/contextual-memory-fusion, by its authors (no licence is given),
whose state dicts are read.  No weights were published; sizes are those of best_config_for_zooming.pkl there.
Traps: the authors' driver makes a LongTensor of the word vectors, which drops what stands behind the point, so that its
checkpoints have other vectors than GloVe; its files end in .chkpt (rename them to .pt); heads and words of a punchline
are in no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.checkpoints.method_config import method_config
from polymodal.models.contextual_memory_fusion import MLPS, ContextualMemoryFusionConfig, official_keys
from polymodal.systems import CheckpointFormat, ModelSpec, Part, System, Variant, hf
from polymodal.systems.c_mfn.recipe import RECIPE

NAMES = {"text": ("text", "l"), "audio": ("audio", "a"), "vision": ("video", "v")}
TRANSFORMER = "multimodal_context.self_attention_module.encoder"


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official state dict, with heads of 64 numbers; None for another's."""
    needed = ("mfn.lstm_l.weight_ih", "unimodal_context.text_LSTM.weight_ih_l0", f"{TRANSFORMER}.src_word_emb.weight")
    if any(name not in shapes for name in needed):
        return None
    sentences, width = shapes[f"{TRANSFORMER}.position_enc.weight"]
    layer = f"{TRANSFORMER}.layer_stack"
    table = shapes.get("unimodal_context.word_embedding.embed.weight", (0,))
    return {
        "model_type": "c_mfn",
        "features": {name: shapes[f"mfn.lstm_{short}.weight_ih"][1] for name, (_, short) in NAMES.items()},
        "context": {name: shapes[f"unimodal_context.{long}_LSTM.weight_hh_l0"][1] for name, (long, _) in NAMES.items()},
        "states": {name: shapes[f"mfn.lstm_{short}.weight_hh"][1] for name, (_, short) in NAMES.items()},
        "hidden": {name: shapes[f"mfn.{other}_fc1.weight"][0] for name, other in MLPS.items()},
        "memory": shapes["mfn.att2_fc2.weight"][0],
        "sentences": sentences - 1,
        "words": table[0],
        "width": width,
        "depth": 1 + max(int(name.split(".")[4]) for name in shapes if name.startswith(f"{layer}.")),
        "heads": max(1, shapes[f"{layer}.0.slf_attn.w_qs.weight"][0] // 64),
        "head_dim": min(64, shapes[f"{layer}.0.slf_attn.w_qs.weight"][0]),
        "ffn_width": shapes[f"{layer}.0.pos_ffn.w_1.weight"][0],
    }


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand, with `steps` and `drops` where they are wanted."""
    shape = method_config(ContextualMemoryFusionConfig, config, "c-mfn")
    context, memory = sum(shape.context.values()), shape.memory
    features = ", ".join(map(str, shape.features.values()))
    drawing = (
        Part(slot="encoder", name="an LSTM a modality over each sentence of the context", prefix="context",
             input=f"[B, {shape.sentences}, {shape.steps}, F], F = {features}",
             output=f"[B, {shape.sentences}, {context}]"),
        Part(slot="connector", name="linears to first cell states", prefix="starts",
             input="sentences side by side", output=f"[B, {sum(shape.states.values())}]"),
        Part(slot="connector", name="transformer over sentences to the first memory", prefix="context_memory",
             input=f"[B, {shape.sentences}, {context}]", output=f"[B, {memory}]"),
        Part(slot="backbone", name="memory fusion network over the punchline", prefix="cells",
             input=f"[B, {shape.steps}, F], F = {features}", output="logit [B, 1]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(official_keys(shape),), parts=drawing)


def by_modality(text: float, audio: float, vision: float) -> dict[str, Any]:
    return {"text": text, "audio": audio, "vision": vision}


PUBLISHED = {
    "model_type": "c_mfn",
    "features": by_modality(300, 81, 75),
    "context": by_modality(88, 32, 64),
    "states": by_modality(32, 80, 32),
    "hidden": {"attention": 64, "proposal": 256, "keep": 64, "write": 128, "classifier": 128},
    "memory": 64,
    "drops": {
        "attention": 0.5,
        "proposal": 0.7,
        "keep": 0.7,
        "classifier": 0.5,
        "audio": 0.1,
        "vision": 0.1,
        "memory": 0.2,
    },
}
SYSTEM = System(
    id="c-mfn",
    aliases=("C-MFN", "Contextual Memory Fusion Network", "UR-FUNNY"),
    year=2019,
    fusion=("method",),
    assembly="ContextualMemoryFusion",
    inputs=("text", "audio", "video"),
    outputs=("humour",),
    headline="whether a punchline is funny, by a memory that begins from what was said before it",
    reference="arXiv 1904.06618",
    formats=(
        CheckpointFormat(
            name="official Contextual_MFN",
            matches=hf("c_mfn"),
            parse_config=parse_config,
            infer=read_shapes,
            entry=("", "model"),
        ),
    ),
    variants=(
        Variant(name="ur-funny-v1", parameters=19_744_945, config=PUBLISHED),
        Variant(name="ur-funny-v2", parameters=19_858_609, config={**PUBLISHED, "features": by_modality(300, 81, 371)}),
    ),
    recipe=RECIPE,
)
