"""SpeechGPT's three stages, by the scripts of its repository (0nutation/SpeechGPT @ b290011).

The scripts say batches of one device only; how many devices there were is not in the repository.  As remembered of the
paper: 768, 1536 and 128 samples a step over 96, 96 and 8 devices, 900, 2100 and 4200 steps.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Linear, LoRAConfig, Stage

TUNED, WAY = AdamW(lr=2e-5, weight_decay=0.0, clip=1.0), Cosine(warmup_ratio=0.03)
LOW = LoRAConfig(rank=8, alpha=16, dropout=0.05)
RECIPE = (
    Stage(
        name="modality-adaptation",
        data=(DataSource(name="LibriLight as units", kind="text"),),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(lr=5e-5, weight_decay=0.0, clip=1.0),
        schedule=Linear(),
        budget=Budget(epochs=3, max_length=1024, precision="bfloat16"),
        start="parts",
        note="24 samples a device; no rate in the script, so transformers' default; texts are joined to 1024 tokens",
    ),
    Stage(
        name="cross-modal-instruction",
        data=(
            DataSource(name="SpeechInstruct cross-modal", kind="conversations", samples=9_000_000),
            DataSource(name="moss-002-sft-data", kind="conversations"),
        ),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=TUNED,
        schedule=WAY,
        budget=Budget(epochs=3, max_length=512, precision="bfloat16"),
        start="modality-adaptation",
        note="72 samples a device; questions are learned too, the system's words are not",
    ),
    Stage(
        name="chain-of-modality",
        data=(DataSource(name="SpeechInstruct chain-of-modality", kind="conversations"),),
        objective=LanguageModeling(),
        train=(),
        lora={f"backbone.blocks.*.attn.{name}": LOW for name in ("q_proj", "v_proj")},
        optimizer=TUNED,
        schedule=WAY,
        budget=Budget(epochs=300, max_length=1024, precision="bfloat16"),
        start="cross-modal-instruction",
        note="48 samples a device; low-rank paths alone learn",
    ),
)
