"""How MulT was trained (arXiv 1906.00295), as the official code does it for CMU-MOSEI by default."""

from polymodal.systems import Adam, Budget, DataSource, Regression, Stage
from polymodal.train.schedule import Plateau

RECIPE = (
    Stage(
        name="train",
        data=(DataSource(name="CMU-MOSEI, aligned or not", kind="labelled sequences", samples=16_326),),
        objective=Regression(),
        train=("proj", "cross", "memory", "proj1", "proj2", "out"),
        optimizer=Adam(lr=1e-3, clip=0.8),
        schedule=Plateau(gamma=0.1, patience=20),
        budget=Budget(batch=24, epochs=40),
        start="scratch",
        note="MOSI and IEMOCAP alike (labels of the latter are classes); dropout 0.1, of words 0.25",
    ),
)
