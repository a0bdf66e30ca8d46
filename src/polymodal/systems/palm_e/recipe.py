"""How PaLM-E was trained (arXiv 2303.03378): one mixture of pictures, text and three robots, or one robot alone.

Sampling frequencies are the paper's table 6.  Rates, batch and steps were not published.  With PaLM frozen only what
turns observations into embeddings learns; the slots of OSRT were learned before, from views alone, and stay so.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

PAIRS, TALKS = "image-text pairs", "conversations"
PARTS = 191  # the sum of the sampling frequencies
MIXTURE = (
    DataSource(name="WebLI", kind=PAIRS, share=100 / PARTS),
    DataSource(name="VQ2A-CC3M", kind=TALKS, share=25 / PARTS),
    DataSource(name="VQG-CC3M", kind=TALKS, share=10 / PARTS),
    DataSource(name="CC3M", kind=PAIRS, share=25 / PARTS),
    DataSource(name="Object-Aware", kind=TALKS, share=10 / PARTS),
    DataSource(name="OK-VQA", kind=TALKS, share=1 / PARTS),
    DataSource(name="VQAv2", kind=TALKS, share=1 / PARTS),
    DataSource(name="COCO captions", kind=PAIRS, share=1 / PARTS),
    DataSource(name="Wikipedia", kind="text", share=1 / PARTS),
    DataSource(name="mobile manipulator, 2912 sequences of SayCan", kind=TALKS, share=6 / PARTS),
    DataSource(name="Language-Table", kind=TALKS, share=8 / PARTS),
    DataSource(name="task and motion planning", kind=TALKS, share=3 / PARTS),
)
SCENES = (DataSource(name="task and motion planning", kind=TALKS, samples=96_000),)
PICTURES = ("encoders.image", "connectors.image")


def stage(name: str, data: tuple[DataSource, ...], train: tuple[str, ...], note: str, **given: object) -> Stage:
    """A stage whose rate, schedule and length were not published."""
    more: dict[str, object] = {"budget": Budget(), "start": "parts", **given}
    return Stage(name=name, data=data, objective=LanguageModeling(), train=train, optimizer=AdamW(lr=None), note=note,
                 **more)  # type: ignore[arg-type]  # fmt: skip


RECIPE = (
    stage("full-mixture", MIXTURE, (*PICTURES, "backbone"), "the main models; loss on what follows the prefix"),
    stage("frozen-mixture", MIXTURE, PICTURES, "the ViT puts into words what a frozen PaLM can read"),
    stage("states", SCENES, ("connectors.state",), "samples are scenes of 3 to 5 objects; PaLM frozen"),
    stage("scenes", SCENES, ("connectors.scene",), "OSRT and PaLM frozen"),
    stage("language-table", (DataSource(name="Language-Table, 10 to 80 demonstrations a task", kind=TALKS),),
          (*PICTURES, "backbone"), "further training of the finished mixture", start="full-mixture",
          budget=Budget(steps=9_000)),
)  # fmt: skip
