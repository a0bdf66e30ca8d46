"""How MESM and FE2E were trained: the commands of the official README."""

from polymodal.systems import Adam, Budget, Constant, DataSource, PartRate, Stage
from polymodal.train.affect import EmotionLabels

RECIPE = (
    Stage(
        name="train",
        data=(DataSource(name="CMU-MOSEI or IEMOCAP, re-split", kind="labelled sequences"),),
        objective=EmotionLabels(),
        train=("text", "towers", "heads", "weights"),
        rates=(PartRate(prefix="text", factor=0.1), PartRate(prefix="heads.text", factor=0.1)),
        optimizer=Adam(lr=5e-5),
        schedule=Constant(),
        budget=Budget(batch=2, epochs=40),
        start="parts",
        note="FE2E: batches of 8.  ALBERT-base v2 from its published weights; present emotions count as often as there "
        "are absent ones for each in the training set; ends 6 epochs after the best validation score",
    ),
)
