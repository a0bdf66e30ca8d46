"""How InternLM-XComposer2 was trained (arXiv 2401.16420): the new weights first, then all.

The stages and what trains are the paper's; its rates and batches were not at hand and are left out.
"""

from polymodal.systems import DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name="captions, concepts, text in pictures", kind="image-text pairs"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone.*.lora_A", "backbone.*.lora_B"),
        start="parts",
        note="the encoder's layers learn at rates that fall with their depth",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="questions, dialogues, articles with pictures", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        start="pretrain",
    ),
)
