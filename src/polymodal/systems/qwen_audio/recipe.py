"""How Qwen-Audio was trained (arXiv 2311.07919): the sound encoder on all tasks at once, then the language model.

Rates, batches and steps are those of the paper's table of hyperparameters, recalled and not read again.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="tasks",
        data=(DataSource(name="thirty tasks of speech, sound and music, told apart by tags", kind="audio-text pairs"),),
        objective=LanguageModeling(),
        train=("encoders.audio", "connectors.audio"),
        optimizer=AdamW(lr=5e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip=1.0),
        schedule=Cosine(warmup_steps=2000, final=0.2),
        budget=Budget(batch=120, steps=500_000, max_length=2048, precision="bfloat16"),
        start="parts",
        note="SpecAugment on part of the tasks; 30 seconds of sound at most",
    ),
    Stage(
        name="chat",
        data=(DataSource(name="dialogues about recordings, and text alone", kind="conversations", samples=20_000),),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip=1.0),
        schedule=Cosine(warmup_steps=3000, final=0.1),
        budget=Budget(batch=128, steps=8000, max_length=2048, precision="bfloat16"),
        start="tasks",
    ),
)
