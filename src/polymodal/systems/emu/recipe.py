"""How Emu was trained (arXiv 2307.05222): everything by one objective, then Emu-I's low-rank paths.

Numbers of the paper as remembered, not read again; low-rank paths are those of the released code.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, PartRate, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="LAION-2B and LAION-COCO", kind="image-text pairs"),
            DataSource(name="MMC4", kind="interleaved documents"),
            DataSource(name="WebVid-10M", kind="video-text pairs"),
            DataSource(name="YT-Storyboard-1B", kind="interleaved documents"),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone", "regression"),
        rates=(PartRate(prefix="backbone", factor=0.3), PartRate(prefix="encoders.image", factor=0.5)),
        optimizer=AdamW(lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05),
        schedule=Cosine(warmup_steps=2000),
        budget=Budget(steps=10_000, precision="bfloat16"),
        start="parts",
        note="the model adds the error of regressed vectors to that of words; Stable Diffusion's U-Net is then "
        "tuned to these vectors by itself",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="ShareGPT, Alpaca, LLaVA, VideoChat, Video-ChatGPT", kind="conversations"),),
        objective=LanguageModeling(),
        train=(),
        lora={"backbone.blocks.*.attn": LoRAConfig(rank=16, alpha=16, dropout=0.05)},
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05),
        budget=Budget(batch=128, steps=10_000, precision="bfloat16"),
        start="pretrain",
    ),
)
