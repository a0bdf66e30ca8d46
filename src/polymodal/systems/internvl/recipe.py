"""How InternVL-Chat 1.5 was trained (arXiv 2404.16821), by its published scripts for InternLM2-20B; and what
InternVL-14B (arXiv 2312.14238) learned first, tower against LLaMA.

Of the second stage of 1.0 (matching, contrast and captions at once, tower and LLaMA frozen but for the looking layers)
the matching head and the looking layers are here, a stage is not.
"""

from polymodal.systems import AdamW, Budget, Contrastive, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="contrastive",
        data=(DataSource(name="LAION, COYO, Wukong and others", kind="image-text pairs", samples=4_980_000_000),),
        objective=Contrastive(max_logit_scale=100.0),
        train=("encoders", "connectors.image", "connectors.text", "logit_scale"),
        optimizer=AdamW(lr=None),
        budget=Budget(),
        start="parts",
        note="pictures of 196 pixels, at the end 224; the tower is new, the LLaMA is not; numbers are recalled",
    ),
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
