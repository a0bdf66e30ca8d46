"""How VideoChat was trained (arXiv 2305.06355): what looks over time, the further queries and the linear, twice."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

TRAINED = ("encoders.video.token", "encoders.video.global_blocks", "encoders.video.final_norm", "connectors.video.more",
           "connectors.video.proj")  # fmt: skip

RECIPE = (
    Stage(
        name="align",
        data=(
            DataSource(name="WebVid-10M", kind="video-text pairs", samples=10_000_000),
            DataSource(name="COCO, VG, SBU, CC3M and CC12M", kind="image-text pairs", samples=15_000_000),
        ),
        objective=LanguageModeling(),
        train=TRAINED,
        optimizer=AdamW(lr=1e-4, weight_decay=0.02),
        schedule=Cosine(warmup_ratio=0.2, final=0.01),
        budget=Budget(epochs=1, max_length=32, precision="float16"),
        start="parts",
        note="32 samples a device, 4 frames taken at random; half of what the global blocks' MLP holds is dropped",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="VideoChat instructions", kind="conversations", samples=11_000),
            DataSource(name="MiniGPT-4 captions", kind="conversations", samples=3000),
            DataSource(name="LLaVA conversations", kind="conversations", samples=2000),
            DataSource(name="LLaVA complex reasoning", kind="conversations", samples=2000),
        ),
        objective=LanguageModeling(),
        train=TRAINED,
        optimizer=AdamW(lr=2e-5, weight_decay=0.02),
        schedule=Cosine(warmup_ratio=0.2, final=0.25),
        budget=Budget(epochs=3, max_length=512, precision="float16"),
        start="align",
        note="1 sample a device, 8 frames taken at random",
    ),
)
