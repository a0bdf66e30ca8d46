"""How BuboGPT was trained (arXiv 2307.08581): the branch of sound alone, then both linears on instructions."""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage

RECIPE = (
    Stage(
        name="sound",
        data=(
            DataSource(name="WavCaps, BBC Sound Effects", kind="audio-text pairs", share=31 / 403),
            DataSource(name="WavCaps, AudioSet", kind="audio-text pairs", share=108 / 403),
            DataSource(name="WavCaps, SoundBible", kind="audio-text pairs", share=2 / 403),
            DataSource(name="WavCaps, FreeSound", kind="audio-text pairs", share=262 / 403),
        ),
        objective=LanguageModeling(),
        train=("connectors.audio",),
        optimizer=AdamW(lr=1e-4, weight_decay=0.05),
        schedule=Cosine(warmup_steps=5000, warmup_start=0.01, final=0.8),
        budget=Budget(batch=64, steps=20_000, max_length=128, precision="float16"),
        start="parts",
        note="the batch is that of one device; clips lie at random and are masked in time and frequency; pictures "
        "begin with MiniGPT-4's linear",
    ),
    Stage(
        name="instruct",
        data=(
            DataSource(name="cc_sbu_align", kind="conversations", share=3 / 165),
            DataSource(name="LLaVA-Instruct-150k", kind="conversations", share=150 / 165),
            DataSource(name="Clotho-Detail", kind="conversations", share=4 / 165),
            DataSource(name="VGGSS, pictures with their sounds", kind="conversations", share=5 / 165),
            DataSource(name="pictures with sounds of others", kind="conversations", share=3 / 165),
        ),
        objective=LanguageModeling(),
        train=("connectors.image.proj", "connectors.audio.proj"),
        optimizer=AdamW(lr=3e-5, weight_decay=0.05),
        schedule=Cosine(warmup_steps=5000, warmup_start=1 / 30, final=1 / 3),
        budget=Budget(batch=12, steps=50_000, max_length=196, precision="float16"),
        start="sound",
    ),
)
