"""How LLaMA-Adapter V2 was trained (arXiv 2304.15010): pictures into gated prompts, then norms and biases.

Rates are the scripts' base rates times the batch over 256.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="COYO, LAION, CC3M, CC12M, SBU, COCO", kind="image-text pairs", samples=567_000),
        ),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone.*.prefix"),
        optimizer=AdamW(lr=1.25e-5, betas=(0.9, 0.95), weight_decay=0.05),
        schedule=Cosine(warmup_ratio=1 / 30),
        budget=Budget(batch=32, epochs=3),
        start="parts",
        note="150 rounds over a fiftieth of the data each",
    ),
    Stage(
        name="finetune",
        data=(
            DataSource(name="GPT-4-LLM, English and Chinese", kind="conversations", samples=104_000),
            DataSource(name="LLaVA-Instruct-150k", kind="conversations", samples=150_000),
        ),
        objective=LanguageModeling(),
        train=("backbone.*norm.weight", "backbone.*.bias"),
        optimizer=AdamW(lr=1.25e-4, betas=(0.9, 0.95), weight_decay=0.02),
        schedule=Cosine(warmup_ratio=0.25),
        budget=Budget(batch=32, epochs=4),
        start="pretrain",
        note="V2.1 adds VQAv2 and low-rank paths",
    ),
)  # fmt: skip
