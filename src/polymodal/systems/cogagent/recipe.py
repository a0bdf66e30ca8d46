"""How CogAgent was trained (arXiv 2312.08914), from CogVLM: the large picture's part, then the visual expert, then all.

Numbers are recalled from the paper, not read again.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

LARGE = ("encoders.detail", "connectors.detail", "backbone.*.cross")
SEEN = (
    DataSource(name="synthetic text on LAION pictures", kind="image-text pairs", samples=80_000_000),
    DataSource(name="optical character recognition of COYO and LAION", kind="image-text pairs", samples=18_000_000),
    DataSource(name="arXiv pages with their sources", kind="image-text pairs", samples=9_000_000),
    DataSource(name="LAION-115M with boxes of its nouns", kind="image-text pairs", samples=40_000_000),
    DataSource(name="CCS400K, web pages with their elements", kind="conversations", samples=400_000),
)


def pretraining(name: str, start: str, steps: int, train: tuple[str, ...]) -> Stage:
    """The two parts of the 60 thousand steps differ in what learns."""
    return Stage(
        name=name,
        data=SEEN,
        objective=LanguageModeling(),
        train=train,
        optimizer=AdamW(lr=2e-5),
        budget=Budget(batch=4608, steps=steps),
        start=start,
    )


RECIPE = (
    pretraining("large-picture", "parts", 20_000, LARGE),
    pretraining("visual-expert", "large-picture", 40_000, (*LARGE, "backbone.*.branches.1")),
    Stage(
        name="tasks",
        data=(DataSource(name="Mind2Web, AITW, annotated screens, visual questions", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders", "connectors", "backbone"),
        optimizer=AdamW(lr=2e-5),
        budget=Budget(batch=1024, steps=10_000),
        start="visual-expert",
    ),
)
