"""How CogVLM was trained (arXiv 2311.03079): the visual expert first, then the whole.

Numbers are recalled from the paper, not read again; the rates of the first two stages were not published.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, PartRate, Stage

EXPERT = ("connectors.image", "backbone.*.branches.1")

RECIPE = (
    Stage(
        name="caption",
        data=(DataSource(name="LAION-2B and COYO, filtered", kind="image-text pairs", samples=1_500_000_000),),
        objective=LanguageModeling(),
        train=EXPERT,
        budget=Budget(batch=8192, steps=120_000),
        start="parts",
    ),
    Stage(
        name="ground",
        data=(
            DataSource(name="LAION-2B and COYO, filtered", kind="image-text pairs"),
            DataSource(name="LAION-40M-grounding, referring expressions", kind="image-text pairs", samples=40_000_000),
        ),
        objective=LanguageModeling(),
        train=EXPERT,
        budget=Budget(batch=1024, steps=60_000),
        start="caption",
        note="pictures of 224 pixels, the last 30 thousand steps of 490",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="visual questions and dialogues", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        rates=(PartRate(prefix="encoders.image", factor=0.1),),
        optimizer=AdamW(lr=1e-5),
        budget=Budget(batch=1024, steps=6000),
        start="ground",
    ),
)
