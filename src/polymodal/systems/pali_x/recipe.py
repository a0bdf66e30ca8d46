"""How PaLI-X was trained (arXiv 2305.18565): everything at 224 pixels, then reading and boxes at ever more pixels.

Optimiser (PaLI's was Adafactor), rates, batch and the shares of the mixture are not known here.  The tower had learned
before to tell which tokens of text stand in a picture, beside its classes; pictures as 256 tokens of a codec were
written too, which nothing here does.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

PAIRS, TALKS = "image-text pairs", "conversations"
READING = (
    DataSource(name="text in WebLI, in two parts", kind=PAIRS),
    DataSource(name="web pages as screenshots and what they are made of (Pix2Struct)", kind=PAIRS),
)
BOXES = DataSource(name="boxes of OWL-ViT in WebLI", kind=PAIRS)
LEARNS = ("connectors.image", "backbone")

RECIPE = (
    Stage(
        name="base",
        data=(
            DataSource(name="text with spans taken out", kind="text", share=0.15),
            DataSource(name="WebLI alt-texts, in two parts", kind=PAIRS, samples=1_000_000_000),
            DataSource(name="CC3M in 35 languages", kind=PAIRS),
            *READING,
            DataSource(name="VQ2A-CC3M in 35 languages, answers and questions", kind=TALKS),
            DataSource(name="Object-Aware questions", kind=TALKS),
            DataSource(name="Episodic WebLI and four-shot VQ2A-CC3M", kind="interleaved documents"),
            DataSource(name="VTP, four frames a video", kind="video-text pairs"),
            BOXES,
        ),
        objective=LanguageModeling(),
        train=LEARNS,
        optimizer=AdamW(),
        budget=Budget(),
        start="parts",
        note="224 pixels, 2.2 billion samples, the tower frozen",
    ),
    Stage(
        name="high-resolution",
        data=(*READING, BOXES),
        objective=LanguageModeling(),
        train=LEARNS,
        optimizer=AdamW(),
        budget=Budget(),
        start="base",
        note="448, 672 and 756 pixels one after another, boxes up to 672; whether the tower learns is not known here",
    ),
    Stage(
        name="finetune",
        data=(DataSource(name="one task, or several of a kind", kind=TALKS),),
        objective=LanguageModeling(),
        train=LEARNS,
        optimizer=AdamW(),
        budget=Budget(),
        start="high-resolution",
        note="672 or 756 pixels, the tower frozen; videos of 8 or 16 frames at 224",
    ),
)
