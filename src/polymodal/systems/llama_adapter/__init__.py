"""LLaMA-Adapter: ten learned prompts that each of LLaMA's last thirty layers attends to behind a gate of its own.

Paper: LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention (arXiv 2303.16199).

    layers 2..31: attention + tanh(gate) * attention over ten prompts of the layer             (fusion type B)
    1.2 million parameters learn: the prompts, and a gate for each head, which starts at zero

Traps: a prompt's keys and values come from the layer's own projections, neither normed nor rotated; the two softmaxes
are separate; every layer of the file has a gate, those of the first two are never read.  What was released follows
instructions in text: the paper's second model, which adds CLIP's features to the prompts and answers ScienceQA, never
was; `llama-adapter-v2` is the one that sees.
"""

from __future__ import annotations

from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    Cosine,
    DataSource,
    LanguageModeling,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.llama_adapter.checkpoint import PUBLISHED, gather, infer, parse_config

RECIPE = (
    Stage(
        name="alpaca",
        data=(DataSource(name="Alpaca", kind="conversations", samples=52_000),),
        objective=LanguageModeling(),
        train=("backbone.*.prefix",),
        optimizer=AdamW(lr=1.125e-3, betas=(0.9, 0.95), weight_decay=0.02),
        schedule=Cosine(warmup_ratio=0.4),
        budget=Budget(batch=32, epochs=5, max_length=512, precision="float16"),
        start="parts",
        note="the script's base rate 9e-3 times the batch over 256",
    ),
)
SYSTEM = System(
    id="llama-adapter",
    aliases=("LLaMA-Adapter", "LLaMA-Adapter V1", "LLaMA-Adapter (V1)"),
    year=2023,
    fusion=("B",),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text",),
    formats=(CheckpointFormat(name="OpenGVLab alpaca_finetuning_v1", parse_config=parse_config, gather=gather,
                    matches=hf("llama_adapter"), infer=infer, entry=("model", "")),),
    variants=(Variant(name="7b", parameters=6_739_645_440, config=PUBLISHED,
                      summary="llama_adapter_len10_layer30_release.pth beside LLaMA-7B"),),
    headline="follows instructions by 1.2 million parameters inside a frozen LLaMA",
    reference="arXiv 2303.16199",
    recipe=RECIPE,
)  # fmt: skip
