"""How C-MFN was trained: driver.py and best_config_for_zooming.pkl of the authors' repository.

The rate is width ** -0.5 * min(step ** -0.5, step * 4000 ** -1.5); 80 epochs of 21 steps end inside its warm-up.
"""

from polymodal.systems import Adam, Budget, Constant, DataSource, Stage
from polymodal.train.affect import EmotionLabels

RECIPE = (
    Stage(
        name="train",
        data=(DataSource(name="UR-FUNNY V1", kind="labelled sequences", samples=10_569),),
        objective=EmotionLabels(),
        train=(
            "context",
            "starts",
            "context_memory.proj",
            "context_memory.blocks",
            "context_memory.out",
            "cells",
            "mlps",
        ),
        optimizer=Adam(lr=(512 * 4000) ** -0.5, betas=(0.9, 0.98), eps=1e-9),
        schedule=Constant(warmup_steps=4000),
        budget=Budget(batch=512, epochs=80),
        start="scratch",
        note="GloVe vectors and positions are not trained; the weights of the lowest validation loss are kept",
    ),
)
