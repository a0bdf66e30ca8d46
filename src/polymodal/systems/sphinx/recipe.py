"""How SPHINX was trained (arXiv 2311.07575), as far as it is known, and the published script that goes on.

The rates, batches and steps of the first two stages were not read; those of the third are the script's for ImageNet.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

LEARNS, STAYS = ("connectors.image", "backbone"), ("connectors.image.qformer",)

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="LAION-400M (real) or LAION-COCO (synthetic)", kind="image-text pairs"),
            DataSource(name="RefinedWeb", kind="text"),
        ),
        objective=LanguageModeling(),
        train=LEARNS,
        frozen=STAYS,
        start="parts",
        note="twice, on real and on synthetic captions; the weights of the two are then averaged; of Tiny the first "
        "mode of the code trains the linear and norm of the connector alone",
    ),
    Stage(
        name="tasks",
        data=(
            DataSource(name="questions, referring, detection, text, poses, relations, dialogue", kind="conversations"),
        ),
        objective=LanguageModeling(),
        train=LEARNS,
        frozen=STAYS,
        start="pretrain",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="ImageNet-1k as conversations", kind="conversations", samples=1_281_167),),
        objective=LanguageModeling(),
        train=LEARNS,
        frozen=STAYS,
        optimizer=AdamW(lr=2e-5, betas=(0.9, 0.95), weight_decay=0.0, clip=8.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=64, epochs=1, max_length=512, precision="bfloat16"),
        start="tasks",
        note="4 samples a device, 4 steps gathered, 8 devices of which 2 share a model",
    ),
)
