"""How NExT-GPT was trained (arXiv 2309.05519), with the rates of the legacy code: in, out, and instructions.

The low-rank paths are a part of the published model; their stage trains those that are there.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, LoRAConfig, Stage
from polymodal.train.objectives import SignalAlignment

CAPTIONS = (
    DataSource(name="CC3M", kind="image-text pairs"),
    DataSource(name="WebVid-2M", kind="video-text pairs"),
    DataSource(name="AudioCaps", kind="audio-text pairs"),
)

RECIPE = (
    Stage(
        name="encode",
        data=CAPTIONS,
        objective=LanguageModeling(),
        train=("connectors",),
        optimizer=AdamW(lr=4e-4, betas=(0.9, 0.95)),
        budget=Budget(epochs=1, max_length=512),
        start="parts",
    ),
    Stage(
        name="decode",
        data=CAPTIONS,
        objective=SignalAlignment(),
        train=("projectors", "backbone.embed_tokens"),
        optimizer=AdamW(lr=4e-4, betas=(0.9, 0.95)),
        budget=Budget(epochs=1, max_length=512),
        start="encode",
        note="of the embedding only the rows of the signal tokens are new; the rewrite adds the diffusion's own loss",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="LLaVA, Alpaca, VideoChat", kind="conversations"),
            DataSource(name="T2M", kind="conversations"),
            DataSource(name="MosIT", kind="conversations", samples=5000),
        ),
        objective=SignalAlignment(),
        train=("connectors", "projectors"),
        lora={"backbone.blocks.*.attn": LoRAConfig(rank=32, alpha=32, dropout=0.1)},
        optimizer=AdamW(lr=5e-4, betas=(0.9, 0.95)),
        budget=Budget(epochs=1, max_length=512),
        start="decode",
    ),
)
