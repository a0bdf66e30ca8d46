"""How ViT was trained (arXiv 2010.11929): classes of ImageNet-21k, then of ImageNet-1k on larger pictures."""

from polymodal.systems import SGD, AdamW, Budget, Classification, Cosine, DataSource, Linear, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name="ImageNet-21k", kind="labelled images", samples=14_197_122),),
        objective=Classification(),
        train=("encoders.image", "head"),
        optimizer=AdamW(lr=1e-3, weight_decay=0.03),
        schedule=Linear(warmup_steps=10_000),
        budget=Budget(batch=4096, epochs=90),
        start="scratch",
        note="B and L; dropout 0.1",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="ImageNet-1k", kind="labelled images", samples=1_281_167),),
        objective=Classification(),
        train=("encoders.image", "head"),
        optimizer=SGD(lr=3e-2, momentum=0.9, clip=1.0),
        schedule=Cosine(warmup_steps=500),
        budget=Budget(batch=512, steps=20_000),
        start="pretrain",
        note="pictures of 384 pixels; rates of 0.003 to 0.06 were tried",
    ),
)
