"""How FLAVA was trained (arXiv 2112.04482): each modality alone, then all losses on batches that take turns.

What a batch holds says what is learned: pictures alone masked patches, texts alone masked words, pairs everything.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, Stage
from polymodal.train.pretraining import MaskedMultimodalModeling

PATCHES, WORDS = 75 / 196, 0.15
PICTURES = DataSource(name="ImageNet-1k", kind="images", samples=1_281_167, masked_patches=PATCHES)
TEXTS = DataSource(name="CCNews and BookCorpus", kind="text", masked_words=WORDS)
PAIRS = DataSource(
    name="PMD: COCO, SBU, Localized Narratives, CC3M, Visual Genome, WIT, CC12M, RedCaps, YFCC100M",
    kind="image-text pairs",
    samples=70_000_000,
    masked_words=WORDS,
    masked_patches=PATCHES,
)

RECIPE = (
    Stage(
        name="unimodal",
        data=(PICTURES, TEXTS),
        objective=MaskedMultimodalModeling(),
        train=("image", "text", "heads"),
        start="scratch",
        note="the image encoder went on from DINO; the numbers of this stage were not published",
    ),
    Stage(
        name="joint",
        data=(PAIRS, PICTURES, TEXTS),
        objective=MaskedMultimodalModeling(),
        train=("image", "text", "joint", "to_joint", "image_proj", "text_proj", "logit_scale", "heads"),
        optimizer=AdamW(lr=1e-3, weight_decay=0.1),
        schedule=Cosine(warmup_steps=10_000),
        budget=Budget(batch=8192),
        start="unimodal",
        note="batches of the three kinds in turn; steps were not published",
    ),
)
