"""How Gemini was trained, as far as the report says (arXiv 2312.11805): everything at once, then instructions.

Sizes of data, mixture, rates, batches and steps were not published.  Reward models and reinforcement learning follow
`instruct`, and the Nano sizes are distilled; neither is described well enough to be written down as a stage.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

WHOLE = ("encoders", "connectors", "backbone")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="web documents, books and code", kind="text"),
            DataSource(name="pictures among text", kind="conversations"),
            DataSource(name="sound and videos", kind="conversations"),
        ),
        objective=LanguageModeling(),
        train=WHOLE,
        optimizer=AdamW(lr=None),
        budget=Budget(max_length=32_768),
        start="scratch",
        note="all modalities from the beginning; the share of domains grows towards the end; nothing in numbers",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="demonstrations of answers, of text and of all modalities", kind="conversations"),),
        objective=LanguageModeling(),
        train=WHOLE,
        optimizer=AdamW(lr=None),
        start="pretrain",
        note="supervised fine-tuning; reward models and RLHF, which follow, are not part of it",
    ),
)
