"""How mPLUG-Owl2 was trained (arXiv 2311.04257): the visual side alone, then everything on instructions.

Numbers are recalled from the paper; warm-up and length of the second stage are the released script's.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LayerDecay, Stage

RECIPE = (
    Stage(
        name="align",
        data=(
            DataSource(name="CC3M, CC12M, COCO, COYO, LAION, DataComp", kind="image-text pairs", samples=400_000_000),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone.*.branches.1"),
        rates=(LayerDecay(prefix="encoders.image", decay=0.9),),
        optimizer=AdamW(lr=1e-4),
        schedule=Cosine(),
        budget=Budget(batch=8192, steps=42_500),
        start="parts",
        note="pictures of 224 pixels",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="captions, visual questions, regions, instructions", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=256, epochs=1, max_length=2048),
        start="align",
        note="pictures of 448 pixels; llava_v1_5_mix665k follows in the released script",
    ),
)
