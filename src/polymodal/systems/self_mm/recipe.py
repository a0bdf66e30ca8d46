"""How Self-MM was trained: MMSA 2.2.1's config_regression.json for CMU-MOSI.

MOSEI: batches of 32, 16,326 samples, rate of vision 1e-4, decay of the heads 1e-2.  SIMS: batches of 32, 1,368 samples,
labels within -1 .. 1.
"""

from polymodal.systems import Adam, Budget, Constant, DataSource, PartRate, Stage
from polymodal.train.affect import UnimodalLabels

RECIPE = (
    Stage(
        name="train",
        data=(DataSource(name="CMU-MOSI, unaligned", kind="labelled sequences", samples=1_284),),
        objective=UnimodalLabels(samples=1_284, limit=3.0),
        train=("text", "audio", "vision", "heads"),
        rates=(
            PartRate(prefix="text", factor=0.05),
            PartRate(prefix="audio", factor=5.0),
            PartRate(prefix="vision", factor=5.0),
        ),
        optimizer=Adam(lr=1e-3, weight_decay=1e-3),
        schedule=Constant(),
        budget=Budget(batch=64),
        start="parts",
        note="gradients of four batches of 16 are summed before each step (here their mean, which Adam tells "
        "by the decay alone); BERT from its published weights; ends 8 epochs after the best validation loss",
    ),
)
