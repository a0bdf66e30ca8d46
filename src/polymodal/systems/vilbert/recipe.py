"""How ViLBERT was trained (arXiv 1908.02265): hidden words, hidden regions and the match of captions, then a task."""

from polymodal.systems import AdamW, Budget, Classification, DataSource, Linear, Stage
from polymodal.train.region_pretraining import RegionPretraining

BODY = ("text", "regions", "image_blocks", "exchanges", "text_pool", "image_pool")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="Conceptual Captions", kind="image-text pairs", samples=3_100_000, masked_words=0.15,
                       masked_patches=0.15),
        ),
        objective=RegionPretraining(yes=0, kept=0.1),
        train=(*BODY, "heads"),
        optimizer=AdamW(lr=1e-4, weight_decay=0.01),
        schedule=Linear(warmup_ratio=0.1),
        budget=Budget(batch=512, epochs=10, max_length=36),
        start="parts",
        note="half of the captions are another picture's; a tenth of the hidden regions keep their features; dropout "
        "0.1; the text stream starts from BERT-base uncased",
    ),
    Stage(
        name="vqa",
        data=(DataSource(name="VQAv2", kind="conversations", samples=658_111),),
        objective=Classification(),
        train=(*BODY, "heads.answer"),
        optimizer=AdamW(lr=4e-5, weight_decay=0.01),
        schedule=Linear(warmup_ratio=0.1),
        budget=Budget(batch=256, epochs=20, max_length=16),
        start="pretrain",
        note="3129 answers, each with a score between 0 and 1; up to 100 regions; dropout 0.5 in the answer head",
    ),
)  # fmt: skip
