"""How CLIP was trained (arXiv 2103.00020): one contrastive stage on WIT-400M, which was never published.

Rates are those of ViT-B; ResNets had betas (0.9, 0.999), larger models 3.6e-4 to 4e-4.
"""

from polymodal.systems import AdamW, Budget, Contrastive, Cosine, DataSource, Stage

PAIRS = (DataSource(name="WIT-400M", kind="image-text pairs", samples=400_000_000),)
TRAIN = ("encoders", "logit_scale")

RECIPE = (
    Stage(
        name="contrastive",
        data=PAIRS,
        objective=Contrastive(max_logit_scale=100.0),
        train=TRAIN,
        optimizer=AdamW(lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        schedule=Cosine(warmup_steps=2000),
        budget=Budget(batch=32_768, epochs=32, max_length=77, precision="float16"),
        start="scratch",
    ),
    Stage(
        name="larger-pictures",
        data=PAIRS,
        objective=Contrastive(max_logit_scale=100.0),
        train=TRAIN,
        optimizer=AdamW(lr=2e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
        budget=Budget(batch=32_768, epochs=1, max_length=77, precision="float16"),
        start="contrastive",
        note="pictures of 336 pixels (l-14-336); its warm-up was not published",
    ),
)
