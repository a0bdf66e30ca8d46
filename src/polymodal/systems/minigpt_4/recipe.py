"""How MiniGPT-4 was trained (arXiv 2304.10592): one linear between frozen models, twice."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="LAION", kind="image-text pairs", share=115 / 129),
            DataSource(name="CC3M and SBU", kind="image-text pairs", share=14 / 129),
        ),
        objective=LanguageModeling(),
        train=("connectors.image.proj",),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=5000, warmup_start=0.01, final=0.8),
        budget=Budget(batch=256, steps=20_000, max_length=32),
        start="parts",
        note="about 5 million pairs; the caption follows the picture without a prompt",
    ),
    Stage(
        name="align",
        data=(DataSource(name="cc_sbu_align", kind="conversations", samples=3439),),
        objective=LanguageModeling(),
        train=("connectors.image.proj",),
        optimizer=AdamW(lr=3e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=200, final=1 / 3),
        budget=Budget(batch=12, steps=1000, max_length=160),
        start="pretrain",
        note="steps of the repository, the paper says 400",
    ),
)
