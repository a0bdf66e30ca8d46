"""How LLaMA-VID was trained (arXiv 2311.17043, scripts/): alignment, instructions, and long videos last."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

LINEARS = tuple(f"connectors.video.{name}" for name in ("project", "query", "key", "value"))

RECIPE = (
    Stage(
        name="align",
        data=(
            DataSource(name="LCS-558K", kind="image-text pairs", samples=558_128),
            DataSource(name="WebVid, part", kind="video-text pairs", samples=232_000),
        ),
        objective=LanguageModeling(),
        train=LINEARS,
        optimizer=AdamW(lr=1e-3, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=256, epochs=1, max_length=2048, precision="bfloat16"),
        start="parts",
        note="models of pictures alone see LCS-558K alone; the Q-Former starts from InstructBLIP's",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="llava_v1_5_mix665k with Video-ChatGPT's", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.video", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=128, epochs=1, max_length=2048, precision="bfloat16"),
        start="align",
        note="every question has the picture beside it",
    ),
    Stage(
        name="long video",
        data=(DataSource(name="LongVideoQA", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.video.project", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=8, epochs=1, max_length=65536, precision="bfloat16"),
        start="instruct",
        note="on features that were made before; rope is stretched linearly to 65536",
    ),
)
