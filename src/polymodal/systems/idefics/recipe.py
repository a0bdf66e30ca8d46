"""How IDEFICS was trained (arXiv 2306.16527 and the model card): gated blocks first, then everything on instructions.

The optimiser's numbers are recalled from the card, not read again; those of the instruction stage are unknown here.
"""

from polymodal.systems import AdamW, Budget, DataSource, LanguageModeling, Linear, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="OBELICS", kind="interleaved documents", share=0.7385),
            DataSource(name="Wikipedia", kind="interleaved documents", share=0.0615),
            DataSource(name="LAION", kind="image-text pairs", share=0.1718),
            DataSource(name="PMD", kind="image-text pairs", share=0.0282),
        ),
        objective=LanguageModeling(z_loss_weight=1e-3),
        train=("connectors.image", "backbone.blocks.*.cross"),
        optimizer=AdamW(lr=5e-5, weight_decay=0.1, clip=1.0),
        schedule=Linear(warmup_steps=2000),
        budget=Budget(batch=1280, steps=200_000, max_length=1024, precision="bfloat16"),
        start="parts",
        note="shares of tokens; batch of 9b, 3584 of 80b; the added words learned too; rates fell to 1e-5 on the way",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="M3IT, LRV, LLaVA, ScienceQA, SVIT, UltraChat", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders", "connectors", "backbone"),
        start="pretrain",
    ),
)
