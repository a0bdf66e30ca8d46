"""How OpenFlamingo was trained (arXiv 2308.01390): two data sets in every step, their losses weighted and summed.

A step holds 32 documents and 64 pairs on each of 64 GPUs.  Labels start behind a document's first picture; placeholders
of pictures and what follows an end of chunk up to the next picture are not learned.
"""

from polymodal.systems import AdamW, Budget, Constant, DataSource, LanguageModeling, Stage, SumOfSources

RECIPE = (
    Stage(
        name="interleaved",
        data=(
            DataSource(name="MMC4", kind="interleaved documents", samples=60_000_000),
            DataSource(name="LAION-2B", kind="image-text pairs", samples=120_000_000),
        ),
        objective=SumOfSources(objective=LanguageModeling(), weights={"MMC4": 1.0, "LAION-2B": 0.2}),
        train=("connectors.image", "backbone.blocks.*.cross", "backbone.embed_tokens"),
        optimizer=AdamW(
            lr=1e-4, weight_decay=0.1, clip=1.0, undecayed=("connectors.image", "backbone.embed_tokens")
        ),
        schedule=Constant(warmup_steps=1875),
        budget=Budget(batch=96 * 64, epochs=1, max_length=256),
        start="parts",
        note="of the embedding only the rows of the added tokens learned, which is not done here: all rows learn",
    ),
)  # fmt: skip
