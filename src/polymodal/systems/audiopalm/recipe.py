"""How AudioPaLM was trained (arXiv 2306.12925): PaLM-2's checkpoint of text, fine-tuned whole on a mixture of tasks.

As remembered of the paper: Adafactor, a constant rate of 5e-5, dropout 0.1.  Batch, steps and shares were not read.
"""

from polymodal.systems import AdamW, Constant, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="fine-tune",
        data=(
            DataSource(name="CoVoST 2, CVSS, VoxPopuli, Common Voice 11, YouTube ASR", kind="conversations"),
            DataSource(name="WMT and TED, translations of text and read aloud", kind="conversations"),
        ),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(lr=5e-5, weight_decay=0.0),
        schedule=Constant(),
        start="parts",
        note="the paper's optimiser is Adafactor, for which AdamW stands here; dropout 0.1; loss on answers alone",
    ),
)
