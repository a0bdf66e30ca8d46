"""How Qwen-VL was trained (arXiv 2308.12966): see, then all tasks at once, then chat.

Rates, batches and steps are those of the paper's table of hyperparameters, recalled and not read again; what trains in
"chat" was read in the published finetune.py.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LayerDecay, Stage

FIXED = ("connectors.image.positions",)  # sines, that published files keep among the parameters

RECIPE = (
    Stage(
        name="see",
        data=(DataSource(name="cleaned pairs of the web, English and Chinese", kind="image-text pairs",
                         samples=1_400_000_000),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image"),
        frozen=FIXED,
        rates=(LayerDecay(prefix="encoders.image", decay=0.95),),
        optimizer=AdamW(lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip=1.0),
        schedule=Cosine(warmup_steps=500, final=0.005),
        budget=Budget(batch=30_720, steps=50_000, max_length=512, precision="bfloat16"),
        start="parts",
        note="pictures of 224 pixels: 256 patches",
    ),
    Stage(
        name="tasks",
        data=(DataSource(name="captions, questions, grounding, text in pictures, text", kind="image-text pairs",
                         samples=76_800_000),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        frozen=FIXED,
        rates=(LayerDecay(prefix="encoders.image", decay=0.95),),
        optimizer=AdamW(lr=5e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip=1.0),
        schedule=Cosine(warmup_steps=400, final=0.2),
        budget=Budget(batch=4096, steps=19_000, max_length=2048, precision="bfloat16"),
        start="see",
        note="samples of one task are packed to 2048 tokens",
    ),
    Stage(
        name="chat",
        data=(DataSource(name="instructions and dialogues, several pictures among them", kind="conversations",
                         samples=350_000),),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        frozen=FIXED,
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip=1.0),
        schedule=Cosine(warmup_steps=3000, final=0.1),
        budget=Budget(batch=128, steps=8000, max_length=2048, precision="bfloat16"),
        start="tasks",
    ),
)  # fmt: skip
