"""How GILL was trained (arXiv 2305.17216), by the defaults of its main.py: one stage, everything at once."""

from polymodal.systems import AdamW, Budget, DataSource, Stage
from polymodal.train.schedule import StepDecay
from polymodal.train.signal_objectives import DrawOrFind

RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="CC3M", kind="image-text pairs"),),
        objective=DrawOrFind(),
        train=("connectors.image", "projectors", "retrieval.image", "retrieval.text", "retrieval.logit_scale",
               "backbone.embed_tokens"),
        optimizer=AdamW(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, clip=1.0, undecayed=("backbone.embed_tokens",)),
        schedule=StepDecay(gamma=0.1, periods=2, warmup_steps=2000),
        budget=Budget(batch=200, steps=20_000, max_length=32, precision="bfloat16"),
        start="parts",
        note="the rows of the eight signal tokens alone learn in the table; with probability 0.5 two captions stand in "
        "one row, which is not done here; `retrieval.decision` was trained afterwards, by a notebook, on PartiPrompts",
    ),
)  # fmt: skip
