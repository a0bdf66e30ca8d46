"""How CoDi-2 was trained, by its released training class: next tokens, and a tenth of the cosine of vectors.

Rates, steps, batches and the rank of the low-rank paths are arguments that were not released.
"""

from polymodal.systems import DataSource, LoRAConfig, Stage
from polymodal.train.feature_regression import FeatureRegression

RECIPE = (
    Stage(
        name="joint",
        data=(
            DataSource(name="MIMIC-IT", kind="interleaved documents"),
            DataSource(name="LAION-400M, InstructPix2Pix", kind="image-text pairs"),
            DataSource(name="AudioSet, AudioCaps", kind="audio-text pairs"),
        ),
        objective=FeatureRegression(),
        train=("connectors", "projectors"),
        lora={"backbone.blocks.*.attn": LoRAConfig(rank=32, alpha=32, dropout=0.1)},
        start="parts",
        note="rank and alpha stand in for arguments that are not known; a further mode also learns the diffusion "
        "model's own loss through the vector, half drowned in noise",
    ),
)
