"""How ModaVerse was trained: one stage, in which inputs are aligned and meta-responses learned (arXiv 2401.06395).

Numbers of the published code (configs/base.py, configs/dscfg.json); its scheduler raises the rate to 5e-4.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Linear, LoRAConfig, Stage

RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="instructions made from captions", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors", "backbone.embed_tokens", "backbone.lm_head"),
        lora={"backbone.blocks.*.attn": LoRAConfig(rank=32, alpha=32, dropout=0.1)},
        optimizer=AdamW(lr=5e-4, betas=(0.9, 0.95), weight_decay=1e-3, clip=1.0),
        schedule=Linear(warmup_ratio=0.1),
        budget=Budget(batch=16, epochs=1, max_length=512, precision="float16"),
        start="parts",
        note="the paper speaks of about 2 million instructions; they were not released",
    ),
)
