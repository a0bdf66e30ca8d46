"""How BEiT-3 was trained (arXiv 2208.10442): hidden words and patches of one stack, contrast, then a task.

Numbers of pretraining are the paper's; those of the tasks are of the official commands for the base size.
"""

from polymodal.systems import (
    AdamW,
    Budget,
    Classification,
    Contrastive,
    Cosine,
    DataSource,
    LayerDecay,
    PartRate,
    Stage,
)
from polymodal.train.multiway_pretraining import MaskedDataModeling

PATCHES, TEXT, PAIR = 0.4, 0.15, 0.5
EMBEDDINGS = ("patch_embed", "class_token", "mask_token", "embed_tokens", "picture_positions", "text_positions")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="pairs: CC12M, CC3M, SBU, COCO, Visual Genome", kind="image-text pairs", samples=21_000_000,
                       masked_words=PAIR, masked_patches=PATCHES),
            DataSource(name="ImageNet-21k", kind="images", samples=14_000_000, masked_patches=PATCHES),
            DataSource(name="Wikipedia, BookCorpus, OpenWebText, CC-News, Stories", kind="text", masked_words=TEXT),
        ),
        objective=MaskedDataModeling(),
        train=("encoder", "head"),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05),
        schedule=Cosine(warmup_steps=10_000),
        budget=Budget(batch=6144, steps=1_000_000),
        start="scratch",
        note="2048 of each kind a step; the codes of patches are BEiT v2's; the released base and large models saw "
        "LAION, COYO and CC15M instead",
    ),
    Stage(
        name="contrast",
        data=(DataSource(name="image-text pairs", kind="image-text pairs"),),
        objective=Contrastive(max_logit_scale=100.0),
        train=("encoder", "image_proj", "text_proj", "logit_scale"),
        start="pretrain",
        note="beit3_*_itc files; how long and on what was not published",
    ),
    Stage(
        name="vqa",
        data=(DataSource(name="VQAv2", kind="conversations", samples=658_111),),
        objective=Classification(),
        train=("encoder", "pooler", "head"),
        rates=(PartRate(prefix="head", factor=20.0),),
        optimizer=AdamW(lr=3e-5, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=Cosine(warmup_ratio=0.1),
        budget=Budget(batch=128, epochs=10, max_length=64),
        start="pretrain",
        note="480 pixels; drop path 0.1; 3129 answers with scores between 0 and 1",
    ),
    Stage(
        name="captioning",
        data=(DataSource(name="COCO captions, Karpathy's split", kind="image-text pairs", samples=566_747,
                         masked_words=0.7),),
        objective=Classification(),
        train=("encoder", "head"),
        optimizer=AdamW(lr=4e-5, weight_decay=0.05),
        schedule=Cosine(warmup_ratio=0.1),
        budget=Budget(batch=256, epochs=10, max_length=32),
        start="pretrain",
        note="480 pixels; words see those before them; label smoothing 0.1, and a fifth of the losses, the worst, "
        "dropped after 12,000 steps, are not done here",
    ),
    Stage(
        name="retrieval",
        data=(DataSource(name="COCO captions, Karpathy's split", kind="image-text pairs", samples=566_747),),
        objective=Contrastive(max_logit_scale=100.0),
        train=("encoder", "image_proj", "text_proj", "logit_scale"),
        rates=(LayerDecay(prefix="encoder", decay=0.65, first=EMBEDDINGS),),
        optimizer=AdamW(lr=2e-4, weight_decay=0.05),
        schedule=Cosine(warmup_ratio=0.2),
        budget=Budget(batch=3072, epochs=15, max_length=64),
        start="contrast",
        note="384 pixels; Flickr30k: 20 epochs at half the rate",
    ),
)  # fmt: skip
