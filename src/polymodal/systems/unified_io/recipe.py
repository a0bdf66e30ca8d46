"""How Unified-IO was trained (arXiv 2206.08916): first to restore what is hidden, then 95 data sets at once.

Steps (1000k is in the names of the files), optimiser, rates and shares are recalled, not read again.
"""

from polymodal.systems import Budget, DataSource, LanguageModeling, Stage

TALKS = "conversations"
RECIPE = (
    Stage(
        name="pre-train",
        data=(DataSource(name="C4 and English Wikipedia, spans hidden", kind="text", masked_words=0.15),
              DataSource(name="ImageNet-21k, YFCC15M, CC12M, patches hidden", kind="images", masked_patches=0.75)),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        budget=Budget(max_length=256),
        note="spans and patches are hidden by the caller: `target_pixel_values` are pictures to be written whole",
    ),
    Stage(
        name="multi-task",
        data=(DataSource(name="95 data sets: answers, captions, boxes, joints", kind=TALKS),
              DataSource(name="depth, normals, segments and pictures from words", kind="image-text pairs")),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        budget=Budget(steps=1_000_000, max_length=256),
        start="pre-train",
    ),
)  # fmt: skip
