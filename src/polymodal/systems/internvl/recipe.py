"""How InternVL-Chat 1.5 was trained (arXiv 2404.16821); numbers of its published scripts for InternLM2-20B."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name="captions, detection, text in pictures, questions", kind="image-text pairs"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image"),
        optimizer=AdamW(lr=1e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=100),
        budget=Budget(batch=2048, epochs=1, max_length=4096, precision="bfloat16"),
        start="parts",
        note="12 tiles at most; drop path 0.2",
    ),
    Stage(
        name="finetune",
        data=(DataSource(name="dialogues, documents, charts, mathematics, knowledge", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, weight_decay=0.05),
        schedule=Cosine(warmup_ratio=0.03),
        budget=Budget(batch=1024, epochs=1, max_length=4096, precision="bfloat16"),
        start="pretrain",
        note="12 tiles at most; drop path 0.4",
    ),
)
