"""How BLIP-2 was trained (arXiv 2301.12597): queries represent a picture, then a language model reads them."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.pretraining import ContrastMatchCaption

PAIRS = (
    DataSource(name="COCO, Visual Genome, CC3M, CC12M, SBU", kind="image-text pairs", samples=14_000_000),
    DataSource(name="LAION-400M with CapFilt captions", kind="image-text pairs", samples=115_000_000),
)

RECIPE = (
    Stage(
        name="represent",
        data=PAIRS,
        objective=ContrastMatchCaption(),
        train=("connectors", "encoders.image.final_norm"),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=5000, warmup_start=0.01, final=0.1),
        budget=Budget(batch=1680, steps=250_000, max_length=32),
        start="parts",
        note="batch for ViT-g, 2320 for ViT-L; warm-up and last rate are those of the repository",
    ),
    Stage(
        name="generate",
        data=PAIRS,
        objective=LanguageModeling(),
        train=("connectors", "encoders.image.final_norm"),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=2000, final=0.1),
        budget=Budget(batch=1920, steps=80_000),
        start="represent",
        note="batch for OPT, 1520 for Flan-T5, whose caption is split at random into what is read and what is written",
    ),
)
