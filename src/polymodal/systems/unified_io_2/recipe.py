"""How Unified-IO 2 was trained (arXiv 2312.17172): to restore and continue every modality, then on 120 data sets.

Every sample has one target: text ([S] goes on, [R] restores spans, [X] restores much), a picture or sound ([S] from
words and the others, [R] hidden patches).  Steps, shares and data are recalled; the optimiser's numbers are not known
here.
"""

from polymodal.systems import Budget, DataSource, LanguageModeling, Stage

LEARNS = ("connectors", "backbone")
RECIPE = (
    Stage(
        name="pre-train",
        data=(DataSource(name="web text, spans hidden", kind="text"),
              DataSource(name="pictures and their texts", kind="image-text pairs"),
              DataSource(name="videos with sound", kind="video-text pairs"),
              DataSource(name="interleaved documents", kind="interleaved documents")),
        objective=LanguageModeling(),
        train=LEARNS,
        budget=Budget(batch=512, steps=1_500_000, max_length=512),
        note="the caller makes the denoising samples; `target_pixel_values`, `target_spectrograms` are to be written",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="120 data sets with prompts", kind="conversations", share=0.6),
              DataSource(name="as in pre-training", kind="image-text pairs", share=0.3),
              DataSource(name="augmented by other samples", kind="conversations", share=0.06),
              DataSource(name="free text", kind="text", share=0.04)),
        objective=LanguageModeling(),
        train=LEARNS,
        budget=Budget(batch=512, steps=1_500_000, max_length=512),
        start="pre-train",
    ),
)  # fmt: skip
