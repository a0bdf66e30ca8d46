"""How InternLM-XComposer was trained (arXiv 2309.15112), and its released script that goes on."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="pairs in English and Chinese", kind="image-text pairs", samples=1_100_000_000),
            DataSource(name="interleaved pages", kind="interleaved documents", samples=77_700_000),
        ),
        objective=LanguageModeling(),
        train=("connectors.image.qformer", "connectors.image.proj", "backbone"),
        start="parts",
        note="the marks and the encoder stay as they are; no rate was read",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="questions, captions, conversations and articles", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.image.qformer", "connectors.image.proj", "backbone"),
        start="pretrain",
        note="of the language model the low-rank paths, which are a part of the published weights; no rate was read",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="the user's own conversations", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image.qformer", "connectors.image.proj", "backbone"),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=Cosine(warmup_ratio=0.01),
        budget=Budget(batch=64, epochs=1, max_length=2048, precision="bfloat16"),
        start="instruct",
        note="the released script: 8 devices, 8 steps accumulated",
    ),
)
