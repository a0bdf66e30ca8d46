"""How VisualGLM was trained, as far as its page says; and its published script that goes on with low-rank paths."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, LoRAConfig, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="CogView, filtered Chinese pairs", kind="image-text pairs", samples=30_000_000, share=0.5),
            DataSource(name="filtered English pairs", kind="image-text pairs", samples=300_000_000, share=0.5),
        ),
        objective=LanguageModeling(),
        train=("connectors.image",),
        start="parts",
        note="both languages weigh the same; which parts learned beside the Q-Former was not published",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="the user's own questions about pictures", kind="conversations"),),
        objective=LanguageModeling(),
        train=(),
        lora={f"backbone.blocks.{layer}.attn": LoRAConfig(rank=10, alpha=1) for layer in (0, 14)},
        optimizer=AdamW(lr=1e-4),
        schedule=Cosine(warmup_ratio=0.02),
        budget=Budget(batch=32, steps=300, max_length=320, precision="float16"),
        start="pretrain",
        note="8 devices of 4 samples; 64 tokens of question and 256 of answer",
    ),
)
