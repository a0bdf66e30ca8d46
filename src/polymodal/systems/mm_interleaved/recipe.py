"""How MM-Interleaved was trained (arXiv 2401.10208), by its mm_pretrain.yaml: one stage for all that learns."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, PartRate, Stage

SYNCS = "backbone.blocks.*.cross"
ADAPTER = tuple(f"encoders.image.{name}" for name in ("prior", "levels", "injectors", "extractors", "up"))
OFFSETS = (f"{SYNCS}.offsets", "encoders.image.injectors.*.attn.offsets", "encoders.image.extractors.*.attn.offsets")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="LAION and CC pairs with BLIP-2 captions", kind="image-text pairs", share=0.2),
            DataSource(name="LAION-en", kind="image-text pairs", share=0.2),
            DataSource(name="LAION-COCO", kind="image-text pairs", share=0.2),
            DataSource(name="MMC4", kind="interleaved documents", share=0.4),
        ),
        objective=LanguageModeling(),
        train=(*ADAPTER, "connectors.image", SYNCS, "backbone.lm_head.new", "mark", "context_proj", "painter", "empty"),
        frozen=("connectors.image.positions", f"{SYNCS}.nothing"),
        rates=tuple(PartRate(prefix=each, factor=0.1) for each in OFFSETS),
        optimizer=AdamW(
            lr=1e-4, betas=(0.9, 0.995), eps=1e-6, weight_decay=0.05, undecayed=(f"{SYNCS}.gate", *OFFSETS)
        ),
        schedule=Cosine(warmup_steps=1000),
        budget=Budget(steps=15_000, max_length=2048, precision="float16"),
        start="parts",
        note="sequences a step and device: 4 of MMC4, 2 of pairs; how many devices is not published.  The loss of "
             "Stable Diffusion, ten times, in which its UNet learns at 1e-5, is not run here: the parts that make a "
             "condition get no gradient",
    ),
)  # fmt: skip
