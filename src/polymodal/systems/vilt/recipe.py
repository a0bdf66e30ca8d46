"""How ViLT was trained (arXiv 2102.03334): masked words, match and word-patch alignment, then a task.

The match head is in no published file of the library's; the objective holds it while it trains.
"""

from polymodal.systems import AdamW, Budget, Classification, DataSource, Linear, PartRate, Stage
from polymodal.train.pretraining import WordPatchPretraining

ALL = ("text", "patches", "kinds", "blocks", "norm", "pooler", "head")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="COCO, Visual Genome, SBU, Conceptual Captions", kind="image-text pairs",
                       samples=9_900_000, masked_words=0.15),
        ),
        objective=WordPatchPretraining(),
        train=ALL,
        optimizer=AdamW(lr=1e-4, weight_decay=0.01),
        schedule=Linear(warmup_steps=2500),
        budget=Budget(batch=4096, steps=200_000, max_length=40, precision="float16"),
        start="parts",
        note="4 M pictures; whole words are hidden; dropout 0.1; blocks start from ViT-B/32",
    ),
    Stage(
        name="vqa",
        data=(DataSource(name="VQAv2", kind="conversations", samples=658_111),),
        objective=Classification(),
        train=ALL,
        rates=(PartRate(prefix="head", factor=10.0),),
        optimizer=AdamW(lr=1e-4, weight_decay=0.01),
        schedule=Linear(warmup_ratio=0.1),
        budget=Budget(batch=256, epochs=10),
        start="pretrain",
        note="3129 answers, each with a score between 0 and 1",
    ),
)  # fmt: skip
