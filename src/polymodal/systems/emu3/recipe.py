"""How Emu3 was trained (arXiv 2409.18869): the next id of text and pictures, then generation and chat apart.

Rates of `generate` are those of the repository's script; batches and steps were not published.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.preference import Preference

RECIPE = (
    Stage(
        name="pretrain",
        data=(
            DataSource(name="text", kind="text"),
            DataSource(name="captioned pictures", kind="image-text pairs"),
            DataSource(name="captioned videos, in a second part", kind="video-text pairs"),
        ),
        objective=LanguageModeling(picture_id_weight=0.5),
        train=("backbone",),
        optimizer=AdamW(lr=5e-5),
        schedule=Cosine(),
        budget=Budget(max_length=131_072),
        start="scratch",
        note="contexts of 5120 ids in the first part, without videos",
    ),
    Stage(
        name="generate",
        data=(DataSource(name="pictures of high quality", kind="image-text pairs"),),
        objective=LanguageModeling(learn=("image",)),
        train=("backbone",),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, clip=5.0),
        schedule=Cosine(warmup_steps=30, final=0.1),
        start="pretrain",
        note="720 x 720 pixels, no prompt for some",
    ),
    Stage(
        name="prefer",
        data=(DataSource(name="pictures of one prompt, voted on by three people", kind="preferences"),),
        objective=Preference(),
        train=("backbone",),
        start="generate",
        note="DPO; beta, rate and batch were not published, beta is TRL's default; the paper is remembered to add the "
        "next-token loss of the better picture (objective.supervised)",
    ),
    Stage(
        name="chat",
        data=(
            DataSource(name="pictures and text", kind="image-text pairs"),
            DataSource(name="visual instructions, 512 to 1024 pixels", kind="conversations"),
        ),
        objective=LanguageModeling(learn=("text",)),
        train=("backbone",),
        start="pretrain",
    ),
)
