"""How `mini` was trained: names of pictures, the language model with its adapters, several names at once, then hearing.

`polymodal train recipes/mini/start.py:STAGE` runs a stage; recipes/mini writes the data and solves what is not trained.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, Stage
from polymodal.systems.mini.components import ALPHA, RANK
from polymodal.train.names import MultipleInstance
from polymodal.train.speech import CTC

ALIGN = Stage(
    name="align",
    data=(
        DataSource(
            name="Fluent emoji, Tux Paint, Openclipart, Quick Draw, CIFAR-10, grocery photos", kind="labelled images"
        ),
    ),
    objective=MultipleInstance(dropout=0.75),
    train=("connectors.image.recall",),
    optimizer=AdamW(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, clip=1.0),
    schedule=Cosine(warmup_steps=100),
    budget=Budget(batch=256, steps=2500),
    start="parts",
    note="before it `sentence` is solved as a ridge regression, after it what weighs both (recipes/mini/solve.py)",
)
INSTRUCT = Stage(
    name="instruct",
    data=(DataSource(name="questions about the pictures of `align`, replies, recordings", kind="conversations"),),
    objective=LanguageModeling(),
    train=("connectors.image.dense", "connectors.image.confidence"),
    lora={"backbone.blocks": LoRAConfig(rank=RANK, alpha=ALPHA)},
    optimizer=AdamW(lr=1e-3, clip=1.0),
    schedule=Cosine(warmup_steps=50),
    budget=Budget(batch=12, steps=1000, precision="bfloat16"),
    start="align",
)
SEVERAL = Stage(
    name="several",
    data=(
        DataSource(name="the model's own answers, lists of things, questions nobody can answer", kind="conversations"),
    ),
    objective=LanguageModeling(),
    train=("connectors.image.confidence",),
    lora={"backbone.blocks": LoRAConfig(rank=RANK, alpha=ALPHA)},
    optimizer=AdamW(lr=5e-4, clip=1.0),
    schedule=Cosine(warmup_steps=20),
    budget=Budget(batch=4, steps=240, precision="bfloat16"),
    start="instruct",
)
HEAR = Stage(
    name="hear",
    data=(
        DataSource(name="synthetic speech", kind="audio-text pairs", share=5 / 6),
        DataSource(name="recordings of people", kind="audio-text pairs", share=1 / 6),
    ),
    objective=CTC(weights={"tokens": 0.7, "letters": 0.3}, mask_frames=10, mask_channels=40),
    train=("connectors.audio",),
    optimizer=AdamW(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, clip=1.0),
    schedule=Cosine(warmup_steps=100, final=0.02),
    budget=Budget(batch=48, steps=600),
    start="parts",
    note="the head of the letters is not kept",
)
RECIPE = (ALIGN, INSTRUCT, SEVERAL, HEAR)
