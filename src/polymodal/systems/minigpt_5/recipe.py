"""How MiniGPT-5 was trained (arXiv 2310.02239), by the defaults of its train_eval.py: captions, then stories."""

from polymodal.systems import AdamW, Budget, DataSource, LoRAConfig, PartRate, Stage
from polymodal.train.schedule import Linear
from polymodal.train.signal_objectives import SpokenPictures

WORDS = ("backbone.embed_tokens", "backbone.lm_head")

RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="CC3M", kind="image-text pairs"),),
        objective=SpokenPictures(),
        train=(*WORDS, "projectors"),
        rates=(PartRate(prefix="projectors", factor=10),),
        optimizer=AdamW(lr=2e-5, weight_decay=0.01, undecayed=WORDS),
        schedule=Linear(warmup_steps=1000),
        budget=Budget(batch=48, epochs=2, precision="bfloat16"),
        start="parts",
        note="of the table and the head the rows of the nine new tokens alone learn",
    ),
    Stage(
        name="stories",
        data=(DataSource(name="VIST, or MMDialog", kind="conversations"),),
        objective=SpokenPictures(),
        train=(*WORDS, "projectors"),
        frozen=("projectors.image.inlet", "projectors.image.queries"),
        lora={"backbone.blocks.*.attn.q_proj": LoRAConfig(rank=8, alpha=16, dropout=0.05),
              "backbone.blocks.*.attn.v_proj": LoRAConfig(rank=8, alpha=16, dropout=0.05)},
        optimizer=AdamW(lr=2e-5, weight_decay=0.01, undecayed=WORDS),
        schedule=Linear(warmup_steps=1000),
        budget=Budget(batch=48, epochs=2, precision="bfloat16"),
        start="align",
        note="without the captions' part of the loss",
    ),
)  # fmt: skip
