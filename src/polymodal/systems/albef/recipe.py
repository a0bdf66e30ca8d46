"""How ALBEF was trained (arXiv 2107.07651): align, fuse and distil by a momentum teacher, then fine-tune.

Of the five published fine-tunings retrieval is recorded; a queue of 65536 takes any batch that divides it.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, Stage
from polymodal.train.momentum import MomentumAlignment

ALL = ("image", "text", "image_proj", "text_proj", "match", "temperature", "token_head")
EPOCH = 9_961  # steps of the first epoch, over which the teacher's share rises

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(
                name="COCO, Visual Genome, CC3M, SBU", kind="image-text pairs", samples=5_100_000, masked_words=0.15
            ),
        ),
        objective=MomentumAlignment(ramp_steps=EPOCH),
        train=ALL,
        optimizer=AdamW(lr=1e-4, weight_decay=0.02),
        schedule=Cosine(warmup_steps=2000, warmup_start=0.1, final=0.1),
        budget=Budget(batch=512, epochs=30),
        start="parts",
        note="4.0 M pictures; the larger run adds CC12M, 14.1 M pictures.  The paper says 1000 steps of warm-up",
    ),
    Stage(
        name="retrieval",
        data=(DataSource(name="COCO captions, Karpathy's split", kind="image-text pairs", samples=566_747),),
        objective=MomentumAlignment(ramp_steps=2214, negative_floor=1e-4),
        train=ALL[:-1],
        optimizer=AdamW(lr=1e-5, weight_decay=0.02),
        schedule=Cosine(final=0.1),
        budget=Budget(batch=256, epochs=5),
        start="pretrain",
        note="or Flickr30k, 10 epochs; texts of one picture are positives of one another (image_ids)",
    ),
)
