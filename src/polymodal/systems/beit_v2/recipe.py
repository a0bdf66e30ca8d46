"""How BEiT v2 was trained (arXiv 2208.06366): codes from a teacher, then masked patches named by them.

Numbers of the official commands: the tokenizer with a decoder of 3 blocks, the base model for 1600 epochs.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, Stage
from polymodal.train.objectives import MaskedImageModeling
from polymodal.train.visual_tokens import VectorQuantizedDistillation

IMAGENET = "ImageNet-1k"

RECIPE = (
    Stage(
        name="tokenizer",
        data=(DataSource(name=IMAGENET, kind="images", samples=1_281_167),),
        objective=VectorQuantizedDistillation(),
        train=("encoder", "decoder", "encoder_norm", "decoder_norm", "to_code", "from_code"),
        optimizer=AdamW(lr=2e-4, betas=(0.9, 0.99), weight_decay=1e-4),
        schedule=Cosine(warmup_ratio=0.1, final=0.05),
        budget=Budget(batch=512, epochs=100),
        start="scratch",
        note="the teacher is CLIP ViT-B/16, its patches after the last norm and projection, frozen; the rate is the "
        "script's 5e-5 for 128 pictures; codes move by an average of 0.99, not by a gradient",
    ),
    Stage(
        name="masked-pictures",
        data=(DataSource(name=IMAGENET, kind="images", samples=1_281_167, masked_patches=75 / 196),),
        objective=MaskedImageModeling(),
        train=("image", "extra", "norm", "head"),
        optimizer=AdamW(lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05, clip=3.0),
        schedule=Cosine(warmup_ratio=10 / 1600),
        budget=Budget(batch=2048, epochs=1600),
        start="scratch",
        note="codes of the tokenizer name hidden patches, in both branches; drop path 0.1; large: layer scale 1e-5, "
        "early patches after 21 of 24 blocks",
    ),
)
