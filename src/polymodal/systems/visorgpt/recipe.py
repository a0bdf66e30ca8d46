"""How VisorGPT was trained (arXiv 2305.13777), by its README: next tokens of layouts of public data sets."""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name="layouts of COCO, Objects365, Open Images, CrowdPose and ImageNet", kind="text"),),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(lr=5e-5, weight_decay=0.01),
        budget=Budget(batch=128, steps=200_000, max_length=1024, precision="float16"),
        start="scratch",
        note="16 sequences on each of 8 devices; the optimiser is Adam of DeepSpeed",
    ),
)
