"""How BEiT was trained (arXiv 2106.08254): visual words of hidden patches, then classes."""

from polymodal.systems import AdamW, Budget, Classification, Cosine, DataSource, LayerDecay, Stage
from polymodal.train.objectives import MaskedImageModeling

RECIPE = (
    Stage(
        name="masked-pictures",
        data=(DataSource(name="ImageNet-22k", kind="images", samples=14_197_122, masked_patches=75 / 196),),
        objective=MaskedImageModeling(),
        train=("encoders.image", "head"),
        optimizer=AdamW(lr=1.5e-3, weight_decay=0.05, clip=3.0),
        schedule=Cosine(warmup_steps=10_000, warmup_start=1e-6 / 1.5e-3, final=1e-5 / 1.5e-3),
        budget=Budget(batch=2048, epochs=150),
        start="scratch",
        note="the DALL-E codec says the visual words; depth of the path dropped 0.1",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="ImageNet-1k", kind="labelled images", samples=1_281_167),),
        objective=Classification(),
        train=("encoders.image", "head"),
        rates=(LayerDecay(prefix="encoders.image", decay=0.65),),
        optimizer=AdamW(lr=4e-3, weight_decay=0.05),
        schedule=Cosine(warmup_ratio=0.2),
        budget=Budget(batch=1024, epochs=100),
        start="masked-pictures",
        note="base size; mixup 0.8 and cutmix 1.0 make soft labels, which a collator would have to bring",
    ),
)
