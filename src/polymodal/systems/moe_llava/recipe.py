"""How MoE-LLaVA was trained (arXiv 2401.15947, scripts/v1): connector, then all but the tower, then experts.

In the third stage each expert starts as a copy of its layer's MLP; the published names of what learns (`fc1 fc2 wg`,
`gate_proj up_proj down_proj wg`) match the dense MLPs too.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

TALKS = (
    DataSource(name="SViT-157k, LVIS-220k, LRV-331k, MIMIC-IT (LA-256k), text of LLaVA-1.5", kind="conversations"),
)


def budget(batch: int) -> Budget:
    return Budget(batch=batch, epochs=1, max_length=2048, precision="bfloat16")


RECIPE = (
    Stage(
        name="align",
        data=(DataSource(name="LCS-558K", kind="image-text pairs", samples=558_128),),
        objective=LanguageModeling(),
        train=("connectors.image",),
        optimizer=AdamW(lr=1e-3, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(256),
        start="parts",
        note="without experts; 32 a device, of which the paper has 8",
    ),
    Stage(
        name="instruct",
        data=TALKS,
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(128),
        start="align",
        note="without experts",
    ),
    Stage(
        name="experts",
        data=(DataSource(name="llava_v1_5_mix665k", kind="conversations", samples=665_298),),
        objective=LanguageModeling(),
        train=("backbone.blocks.*.mlp",),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(128),
        start="instruct",
        note="experts start as copies of the MLP; it drops tokens beyond 1.5 times its share",
    ),
)
