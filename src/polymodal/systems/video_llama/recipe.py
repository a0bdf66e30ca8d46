"""How Video-LLaMA was trained (arXiv 2306.02858): the branch of pictures and videos, then that of sound.

Sound was never heard in training: ImageBind's image vectors stand in for those of sound, which lie in the same space.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

SEEN = ("connectors.video.qformer", "connectors.video.positions", "connectors.video.proj")
PAIRS = (
    DataSource(name="WebVid-2.5M", kind="video-text pairs", samples=2_500_000),
    DataSource(name="LLaVA-CC3M", kind="image-text pairs", samples=595_000),
)
TALKS = (
    DataSource(name="MiniGPT-4 descriptions", kind="conversations", samples=3439),
    DataSource(name="LLaVA-Instruct-150k", kind="conversations", samples=150_000),
    DataSource(name="VideoChat", kind="conversations", samples=11_000),
)

RECIPE = (
    Stage(
        name="vision pretrain",
        data=PAIRS,
        objective=LanguageModeling(),
        train=SEEN,
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=2500, warmup_start=0.01, final=0.8),
        budget=Budget(batch=256, steps=12_500),
        start="parts",
    ),
    Stage(
        name="vision instruct",
        data=TALKS,
        objective=LanguageModeling(),
        train=SEEN,
        optimizer=AdamW(lr=3e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=1000, final=1 / 3),
        budget=Budget(batch=32, steps=3000, max_length=320),
        start="vision pretrain",
    ),
    Stage(
        name="audio pretrain",
        data=PAIRS,
        objective=LanguageModeling(),
        train=("connectors.audio",),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=5000, warmup_start=0.01, final=0.8),
        budget=Budget(batch=256, steps=25_000),
        start="vision instruct",
    ),
    Stage(
        name="audio instruct",
        data=TALKS,
        objective=LanguageModeling(),
        train=("connectors.audio",),
        start="audio pretrain",
        note="its numbers are in a file of the repository that was not read",
    ),
)
