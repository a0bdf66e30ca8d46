"""How KOSMOS-2 was trained (arXiv 2306.14824): on from KOSMOS-1 with boxes as words, then instructions.

A step of the first stage held 419 thousand tokens, 25 billion in all; numbers of the second were not published.
"""

from polymodal.systems import Adam, Budget, DataSource, LanguageModeling, Linear, Stage

RECIPE = (
    Stage(
        name="ground",
        data=(
            DataSource(name="GrIT", kind="image-text pairs", samples=90_000_000),
            DataSource(name="captions of KOSMOS-1", kind="image-text pairs"),
            DataSource(name="text of KOSMOS-1", kind="text"),
            DataSource(name="pages of KOSMOS-1", kind="interleaved documents"),
        ),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        optimizer=Adam(lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, clip=2.0),
        schedule=Linear(warmup_steps=375),
        budget=Budget(steps=60_000),
        note="goes on from KOSMOS-1; all parameters learn in the released script, what the paper froze is unknown",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="LLaVA-Instruct without pictures of RefCOCO", kind="conversations"),
            DataSource(name="Unnatural Instructions and FLANv2", kind="conversations"),
            DataSource(name="GrIT as instructions", kind="conversations"),
        ),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        start="ground",
    ),
)
