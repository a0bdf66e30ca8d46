"""How VisCPM was trained, as far as its page says, and its published script that goes on with VisCPM-Chat.

Nothing is said of rates and steps before that script; they are in the paper's appendix or nowhere.
"""

from polymodal.systems import AdamW, Budget, Constant, DataSource, LanguageModeling, Stage
from polymodal.train.objectives import Denoising

ENGLISH = "CC3M, CC12M, COCO, Visual Genome, LAION and others, in English"

RECIPE = (
    Stage(
        name="pretrain",
        data=(DataSource(name=ENGLISH, kind="image-text pairs", samples=150_000_000),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image"),
        start="parts",
        note="from BEiT-3 large and CPM-Bee 10B; the first query starts as BEiT-3's <s>, the last one as its </s>; "
        "zhplus: 20M native and 120M translated Chinese pairs too",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="LLaVA-150K, in English and translated", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        start="pretrain",
    ),
    Stage(
        name="fine-tune",
        data=(DataSource(name="LLaVA-150K in Chinese (openbmb/llava_zh)", kind="conversations"),),
        objective=LanguageModeling(),
        train=("encoders.image", "connectors.image", "backbone"),
        frozen=("encoders.image.tower.patch_embed", "encoders.image.tower.class_token"),
        optimizer=AdamW(lr=1e-5, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=Constant(warmup_steps=200, warmup_start=0.1),
        budget=Budget(batch=8, epochs=5, max_length=512, precision="float16"),
        start="instruct",
        note="the rate rises by the logarithm of the step; one sample on each of 8 devices; crops of half the picture "
        "and more, mirrored, RandAugment(2, 7); the code takes of each conversation its first round",
    ),
    Stage(
        name="paint",
        data=(DataSource(name="LAION-2B, English", kind="image-text pairs"),),
        objective=Denoising(),
        train=("connectors.text", "generators.image"),
        start="parts",
        note="from CPM-Bee 10B and the U-Net of Stable Diffusion 2.1, of which ever more was released, the bridges to "
        "words first; latents are those of its codec; zhplus: 20M native and 120M translated Chinese pairs too",
    ),
)
