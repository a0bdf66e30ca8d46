"""How UNITER was trained (arXiv 1909.11740): four tasks on captions, one a batch, then a task of its own.

Batches are measured in tokens (words and regions together): 10,240 on each of 8 GPUs, 6 of them a step.
"""

from polymodal.systems import AdamW, Budget, Classification, DataSource, Linear, PartRate, Stage
from polymodal.train.region_pretraining import ConditionalMasking

BODY = ("text", "regions", "text_pool")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="COCO, Visual Genome, Conceptual Captions, SBU", kind="image-text pairs", samples=5_600_000,
                       masked_words=0.15, masked_patches=0.15),
        ),
        objective=ConditionalMasking(),
        train=(*BODY, "heads"),
        optimizer=AdamW(lr=5e-5, betas=(0.9, 0.98), weight_decay=0.01, clip=5.0),
        schedule=Linear(warmup_steps=10_000),
        budget=Budget(steps=200_000, max_length=62, precision="float16"),
        start="parts",
        note="base size; tasks are drawn 6 : 8 : 4 : 4 (match, words, features, classes) for COCO and SBU, 9 : 12 : 6 "
        ": 6 for the others; half of the texts of the match are another picture's; starts from BERT-base cased",
    ),
    Stage(
        name="vqa",
        data=(DataSource(name="VQAv2 and Visual Genome questions", kind="conversations"),),
        objective=Classification(),
        train=(*BODY, "heads.answer"),
        rates=(PartRate(prefix="heads.answer", factor=10.0),),
        optimizer=AdamW(lr=8e-5, betas=(0.9, 0.98), weight_decay=0.01, clip=2.0),
        schedule=Linear(warmup_steps=600),
        budget=Budget(steps=6000, max_length=62, precision="float16"),
        start="pretrain",
        note="base size; 5,120 tokens on each of 4 GPUs, 5 of them a step; 3129 answers with scores between 0 and 1",
    ),
)  # fmt: skip
