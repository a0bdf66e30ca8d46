"""How LLaVA-1.5 was trained (arXiv 2310.03744): the connector, then all but CLIP, or low-rank paths instead."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, PartRate, Stage

TALKS = (DataSource(name="llava_v1_5_mix665k", kind="conversations", samples=665_298),)

RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="LCS-558K", kind="image-text pairs", samples=558_128),),
        objective=LanguageModeling(),
        train=("connectors.image",),
        optimizer=AdamW(lr=1e-3, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=256, epochs=1, max_length=2048, precision="bfloat16"),
        start="parts",
    ),
    Stage(
        name="instruct",
        data=TALKS,
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=128, epochs=1, max_length=2048, precision="bfloat16"),
        start="align",
    ),
    Stage(
        name="instruct-lora",
        data=TALKS,
        objective=LanguageModeling(),
        train=("connectors.image",),
        lora={"backbone.blocks": LoRAConfig(rank=128, alpha=256, dropout=0.05)},
        rates=(PartRate(prefix="connectors.image", factor=0.1),),
        optimizer=AdamW(lr=2e-4, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=128, epochs=1, max_length=2048, precision="bfloat16"),
        start="align",
        note="in place of `instruct`",
    ),
)
