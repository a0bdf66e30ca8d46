"""How Otter was tuned (arXiv 2305.03726; the official script for MPT-7B): instructions in context, OpenFlamingo frozen.

Pictures were resized to 224 x 224 whatever their proportions in training, and cut to a square in all evaluations,
which is what the processor does.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="instruct",
        data=(DataSource(name="MIMIC-IT", kind="conversations", samples=2_800_000),),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone.blocks.*.cross", "backbone.embed_tokens", "backbone.lm_head"),
        optimizer=AdamW(lr=2e-5, weight_decay=0.1, clip=1.0),
        schedule=Cosine(warmup_ratio=0.01),
        budget=Budget(batch=64, epochs=3, max_length=1024),
        start="parts",
        note="starts from OpenFlamingo; 8 a device on 8 devices; of MPT the head is the embedding",
    ),
)
