"""How LLaVA-1.6 was trained (llava-vl.github.io): as LLaVA-1.5, then the encoder too, at a tenth of the rate.

Recalled from the blog and the model cards; the training scripts were not published.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, PartRate, Stage

RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="LCS-558K", kind="image-text pairs", samples=558_128),),
        objective=LanguageModeling(),
        train=("connectors.image",),
        optimizer=AdamW(lr=1e-3, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=256, epochs=1),
        start="parts",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(
                name="llava_v1_5_mix665k, ShareGPT4V, LAION-GPT-V, requests, DocVQA, SynDog-EN, ChartQA, DVQA, AI2D",
                kind="conversations",
                samples=760_000,
            ),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        rates=(PartRate(prefix="encoders.image", factor=0.1),),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=128, epochs=1),
        start="align",
    ),
)
