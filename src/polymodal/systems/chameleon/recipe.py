"""How Chameleon was trained (arXiv 2405.09818): ids of text and pictures alike, 9.2 trillion, then alignment.

Sequences are packed to 4096 ids, 2^23 a step at 7B.  Half of the captioned pictures stand before their caption.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage
from polymodal.train.schedule import Exponential

MIXED = LanguageModeling(z_loss_weight=1e-5)
OPTIMIZER = AdamW(lr=1e-4, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, clip=1.0)

RECIPE = (
    Stage(
        name="pretrain 1",
        data=(
            DataSource(name="text", kind="text", tokens=2_900_000_000_000),
            DataSource(name="captioned pictures", kind="image-text pairs", samples=1_400_000_000,
                       tokens=1_500_000_000_000),
            DataSource(name="web pages", kind="interleaved documents", tokens=400_000_000_000),
        ),
        objective=MIXED,
        train=("backbone",),
        optimizer=OPTIMIZER,
        schedule=Exponential(warmup_steps=4000),
        budget=Budget(batch=2048, steps=877_000, max_length=4096),
        start="scratch",
        note="four fifths of the training; the rate falls exponentially to 0, how fast was not published",
    ),
    Stage(
        name="pretrain 2",
        data=(
            DataSource(name="the first stage's data", kind="interleaved documents", share=0.5),
            DataSource(name="licensed data of better quality and instructions", kind="interleaved documents",
                       share=0.5),
        ),
        objective=MIXED,
        train=("backbone",),
        optimizer=OPTIMIZER,
        schedule=Exponential(),
        budget=Budget(batch=2048, steps=219_000, max_length=4096),
        start="pretrain 1",
    ),
    Stage(
        name="align",
        data=(
            DataSource(name="text, code, talks about pictures, safety", kind="conversations"),
            DataSource(name="picture generation", kind="conversations", samples=64_000),
            DataSource(name="interleaved answers", kind="conversations", samples=16_000),
        ),
        objective=MIXED,
        train=("backbone",),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1),
        schedule=Cosine(),
        budget=Budget(batch=128, max_length=4096),
        start="pretrain 2",
        note="answers only, dropout 0.05",
    ),
)  # fmt: skip
