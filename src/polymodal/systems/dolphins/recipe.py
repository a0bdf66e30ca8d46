"""How Dolphins was tuned (arXiv 2312.00438): reasoning about ordinary pictures first, then driving clips in context.

The training code was not released, so rates, batches and lengths are left open.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

TUNED = (
    "connectors.image",
    "backbone.blocks.*.cross",
    "backbone.blocks.*.adapters",
    "backbone.embed_tokens",
)

RECIPE = (
    Stage(
        name="ground",
        data=(DataSource(name="grounded chains of thought from public visual questions", kind="conversations"),),
        objective=LanguageModeling(),
        train=TUNED,
        optimizer=AdamW(),
        budget=Budget(),
        start="parts",
        note="starts from OpenFlamingo-9B",
    ),
    Stage(
        name="drive",
        data=(DataSource(name="BDD-X in conversations", kind="conversations"),),
        objective=LanguageModeling(),
        train=TUNED,
        optimizer=AdamW(),
        budget=Budget(),
        start="ground",
        note="examples of other clips in front, up to five",
    ),
)
