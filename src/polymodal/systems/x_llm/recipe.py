"""How X-LLM was trained (arXiv 2305.04160); numbers are those of the published configs, xllm/projects/train.

The first stage is not in the scripts: the Q-Former is BLIP-2's of its first stage, and the speech encoder with its CIF
module is of another project that was not published with it.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

ENCODED = ("connectors.image.qformer", "connectors.image.proj")

RECIPE = (
    Stage(
        name="image",
        data=(DataSource(name="COCO, CC3M, AI Challenger, Flickr30k, VG, SBU, Wukong in Chinese",
                         kind="image-text pairs", samples=14_000_000),),
        objective=LanguageModeling(),
        train=ENCODED,
        optimizer=AdamW(lr=3e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=6000, warmup_start=1 / 30, final=1 / 3000),
        budget=Budget(batch=256, epochs=2, precision="float16"),
        start="parts",
        note="8 devices of 1 sample, 32 of them accumulated; number of samples as recalled from the paper",
    ),
    Stage(
        name="video",
        data=(DataSource(name="MSRVTT, ActivityNet in Chinese", kind="video-text pairs"),),
        objective=LanguageModeling(),
        train=("connectors.image.qformer", "connectors.image.video_queries", "connectors.image.video_proj"),
        frozen=("connectors.image.qformer.queries",),
        optimizer=AdamW(lr=1e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=200, warmup_start=0.1, final=1e-3),
        budget=Budget(batch=16, epochs=5, max_length=64, precision="float16"),
        start="image",
        note="2 devices of 2 samples, 4 of them accumulated; 5 frames, one a second",
    ),
    Stage(
        name="speech",
        data=(DataSource(name="AISHELL-2, VSDial-CN", kind="audio-text pairs"),),
        objective=LanguageModeling(),
        train=("connectors.features",),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=6000, warmup_start=0.01, final=1e-4),
        budget=Budget(batch=1024, epochs=30, max_length=64, precision="float16"),
        start="image",
        note="8 devices of 4 samples, 32 of them accumulated; at most 20 features and 20 characters of text",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="MiniGPT-4's descriptions in Chinese", kind="conversations", samples=3_500),
            DataSource(name="AISHELL-2", kind="conversations", samples=2_000),
            DataSource(name="VSDial-CN", kind="conversations", samples=2_000),
            DataSource(name="ActivityNet in Chinese", kind="conversations", samples=1_000),
        ),
        objective=LanguageModeling(),
        train=("connectors.image.proj", "connectors.image.video_proj", "connectors.image.video_queries",
               "connectors.image.qformer.queries", "connectors.features.out_proj"),
        optimizer=AdamW(lr=1e-6, weight_decay=0.05),
        schedule=Cosine(warmup_steps=50, warmup_start=1.0, final=1.0),
        budget=Budget(batch=16, epochs=2, max_length=256, precision="float16"),
        start="speech",
        note="4 samples, 4 of them accumulated; numbers of samples as recalled from the paper",
    ),
)  # fmt: skip
