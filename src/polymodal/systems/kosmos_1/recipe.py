"""How KOSMOS-1 was trained (arXiv 2302.14045): pages, pairs and text at once, then instructions in text alone.

A step of the first stage held 1.2 million tokens: 256 texts of 2048 tokens, 6144 captions and 128 pages; 360 billion
tokens in all.  Of CLIP the last layer learned, which is read here as its last block and the norm behind it.
"""

from polymodal.systems import Adam, Budget, DataSource, LanguageModeling, Linear, Stage

LEARNS = ("encoders.image.blocks.23", "encoders.image.final_norm", "connectors.image", "backbone")

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="The Pile, Common Crawl, CC-Stories and RealNews", kind="text"),
            DataSource(name="LAION-2B, LAION-400M, COYO-700M and Conceptual Captions", kind="image-text pairs"),
            DataSource(name="web pages of Common Crawl", kind="interleaved documents", samples=71_000_000),
        ),
        objective=LanguageModeling(),
        train=LEARNS,
        optimizer=Adam(lr=2e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
        schedule=Linear(warmup_steps=375),
        budget=Budget(steps=300_000, max_length=2048),
        start="parts",
        note="dropout 0.1; a fresh decoder starts with Magneto's numbers; the loss is on text alone",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="Unnatural Instructions and FLANv2", kind="conversations"),),
        objective=LanguageModeling(),
        train=LEARNS,
        optimizer=Adam(lr=2e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01),
        schedule=Linear(warmup_steps=375),
        budget=Budget(batch=256, steps=10_000, max_length=2048),
        start="pretrain",
        note="beside the instructions, in every step, the data of the stage before",
    ),
)
