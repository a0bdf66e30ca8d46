"""How RoboFlamingo was trained (arXiv 2311.01378): imitation of demonstrations, by the script of the best result."""

from polymodal.systems import AdamW, Budget, Constant, DataSource, Stage
from polymodal.train.objectives import BehaviourCloning

RECIPE = (
    Stage(
        name="imitate",
        data=(DataSource(name="CALVIN ABCD, annotated with language", kind="robot trajectories"),),
        objective=BehaviourCloning(gripper_weight=0.01),
        train=("connectors", "backbone.blocks.*.cross", "backbone.embed_tokens", "policy"),
        optimizer=AdamW(
            lr=1e-4, weight_decay=0.1, undecayed=("connectors", "backbone.embed_tokens", "policy")
        ),
        schedule=Constant(warmup_steps=5000),
        budget=Budget(batch=6 * 8, epochs=5, max_length=32, precision="float32"),
        start="parts",
        note="windows of 12 steps; pictures shifted by up to 10 pixels (gripper camera 4), the same in a window; on a "
             "real robot the gripper's weight is 0.05; dropout 0.1 in the LSTM",
    ),
)  # fmt: skip
