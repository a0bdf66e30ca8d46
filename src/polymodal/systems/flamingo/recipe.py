"""How Flamingo was trained (arXiv 2204.14198): one stage on four data sets at once, their losses weighted and summed.

A step holds a batch of each data set.  Sizes of the batches were not published in a form that can be recorded here.
"""

from polymodal.systems import AdamW, Budget, Constant, DataSource, LanguageModeling, Stage, SumOfSources

RECIPE = (
    Stage(
        name="mixture",
        data=(
            DataSource(name="M3W", kind="interleaved documents", samples=43_000_000),
            DataSource(name="ALIGN", kind="image-text pairs", samples=1_800_000_000),
            DataSource(name="LTIP", kind="image-text pairs", samples=312_000_000),
            DataSource(name="VTP", kind="video-text pairs", samples=27_000_000),
        ),
        objective=SumOfSources(
            objective=LanguageModeling(), weights={"M3W": 1.0, "ALIGN": 0.2, "LTIP": 0.2, "VTP": 0.03}
        ),
        train=("connectors.image", "backbone.blocks.*.cross"),
        optimizer=AdamW(lr=1e-4, weight_decay=0.1, clip=1.0, undecayed=("connectors.image",)),
        schedule=Constant(warmup_steps=5000),
        budget=Budget(steps=500_000),
        start="parts",
        note="the embedding of the end of a chunk learned too; no gradient of single rows is kept here",
    ),
)
