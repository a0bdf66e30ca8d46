"""How mPLUG-Owl was trained (arXiv 2304.14178): the visual side beside a frozen language model, then low-rank paths.

The second stage's numbers are those of the released script, which trains LLaMA without touching the visual side.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, Stage

LOW = LoRAConfig(rank=8, alpha=32, dropout=0.05)

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name="LAION-400M, COYO-700M, Conceptual Captions, COCO", kind="image-text pairs"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image"),
        optimizer=AdamW(),
        schedule=Cosine(),
        budget=Budget(steps=50_000),
        start="parts",
        note="2.1 million tokens a step, 104 billion in all; rate and batch in rows were not found published",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="Alpaca", kind="conversations", samples=52_000),
            DataSource(name="Vicuna", kind="conversations", samples=90_000),
            DataSource(name="Baize", kind="conversations", samples=50_000),
            DataSource(name="LLaVA-Instruct-150k", kind="conversations", samples=150_000),
        ),
        objective=LanguageModeling(),
        train=(),
        lora={"backbone.blocks.*.attn.q_proj": LOW, "backbone.blocks.*.attn.v_proj": LOW},
        optimizer=AdamW(lr=2e-5, weight_decay=1e-4, clip=1.0),
        schedule=Cosine(warmup_steps=50, final=0.05),
        budget=Budget(batch=256, steps=4_236, max_length=2048, precision="bfloat16"),
        start="pretrain",
    ),
)
