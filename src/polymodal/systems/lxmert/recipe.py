"""How LXMERT was trained (arXiv 1908.07490): five tasks at once on captions and questions, then one of them alone.

The paper adds questions in the last 10 of 20 epochs; the official script asks them from the first on.
"""

from polymodal.systems import AdamW, Budget, Classification, DataSource, Linear, Stage
from polymodal.train.region_pretraining import RegionPretraining

BODY = ("text", "regions", "image_blocks", "exchanges", "text_pool")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="COCO, Visual Genome, VQA, GQA, VG-QA", kind="image-text pairs", samples=9_180_000,
                       masked_words=0.15, masked_patches=0.15),
        ),
        objective=RegionPretraining(labels=("objects", "attributes"), visual_weight=6.67, answers=True, kept=0.1,
                                    swapped=0.1),
        train=(*BODY, "heads"),
        optimizer=AdamW(lr=1e-4, weight_decay=0.01, clip=1.0),
        schedule=Linear(warmup_ratio=0.05),
        budget=Budget(batch=256, epochs=20, max_length=20),
        start="scratch",
        note="half of the texts are another picture's; of hidden regions 80 % are zero, 10 % another region, 10 % as "
        "they were; dropout 0.1; 36 regions a picture",
    ),
    Stage(
        name="vqa",
        data=(DataSource(name="VQAv2", kind="conversations", samples=658_111),),
        objective=Classification(),
        train=(*BODY, "heads.answer"),
        optimizer=AdamW(lr=5e-5, weight_decay=0.01, clip=5.0),
        schedule=Linear(warmup_ratio=0.1),
        budget=Budget(batch=32, epochs=4, max_length=20),
        start="pretrain",
        note="3129 answers, each with a score between 0 and 1; rows of the answer head that both sets share are kept",
    ),
)  # fmt: skip
