"""How CogCoM was trained (arXiv 2402.04236): as CogVLM, then on chains; and the repository's script that goes on.

Numbers of the first three stages are recalled from the papers, not read again; those of the last are the script's.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.systems.cogvlm.recipe import EXPERT
from polymodal.systems.cogvlm.recipe import RECIPE as COGVLM

CHAINS = DataSource(name="chains of manipulations", kind="conversations", samples=70_000)
OTHERS = DataSource(name="MultiInstruct, LLaVAR, ShareGPT4V", kind="conversations", samples=500_000)

RECIPE = (
    *COGVLM[:2],
    Stage(
        name="chains",
        data=(OTHERS, CHAINS),
        objective=LanguageModeling(),
        train=EXPERT,
        optimizer=AdamW(lr=1e-5),
        budget=Budget(batch=160, steps=14_000),
        start="ground",
        note="which parts learned was not read again; these are the stages' before it",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="CoMDataset, synthesised and of mathematics", kind="conversations", samples=91_000),),
        objective=LanguageModeling(),
        train=("connectors.image.proj", "connectors.image.norm", "connectors.image.mlp", "backbone.*.branches.1"),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, clip=0.1),
        schedule=Cosine(warmup_ratio=0.02),
        budget=Budget(batch=8, steps=800, max_length=2048, precision="bfloat16"),
        start="chains",
        note="at most 3 turns a chain; low-rank paths that the script adds are not in its list of what learns; its "
        "loss is the sum of the means of the turns, divided by their number and one, without gradient to earlier turns",
    ),
)
