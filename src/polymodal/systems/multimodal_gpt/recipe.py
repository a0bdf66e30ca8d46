"""How MultiModal-GPT was tuned (arXiv 2305.04790; the official command): instructions with and without pictures.

A step holds a batch of each kind, and both losses are followed.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage, SumOfSources

RECIPE = (
    Stage(
        name="instruct",
        data=(
            DataSource(name="LLaVA, A-OKVQA, cc_sbu_align, COCO, OCR-VQA", kind="conversations"),
            DataSource(name="dolly-15k, Alpaca-GPT-4, Baize", kind="conversations"),
        ),
        objective=SumOfSources(
            objective=LanguageModeling(),
            weights={"LLaVA, A-OKVQA, cc_sbu_align, COCO, OCR-VQA": 1.0, "dolly-15k, Alpaca-GPT-4, Baize": 1.0},
        ),
        train=("backbone.blocks.*.adapters",),
        optimizer=AdamW(lr=1e-5, weight_decay=0.1, clip=1.0),
        schedule=Cosine(warmup_steps=100),
        budget=Budget(batch=128, epochs=1, max_length=512),
        start="parts",
        note="starts from OpenFlamingo-9B; one row a device on 8 devices, gradients of 16 steps together",
    ),
)
