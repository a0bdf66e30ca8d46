"""How VITA was trained (arXiv 2408.05211, section 3); numbers are those of the published scripts, script/train.

The scripts begin behind the first stage and with a finished sound encoder: what the paper says of these two has no
numbers in it that were read.
"""

from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Stage


def budget(batch: int, length: int) -> Budget:
    return Budget(batch=batch, epochs=1, max_length=length, precision="bfloat16")


RECIPE = (
    Stage(
        name="language",
        data=(DataSource(name="texts and questions in Chinese and English", kind="conversations", samples=5_000_000),),
        objective=LanguageModeling(),
        train=("backbone",),
        optimizer=AdamW(),
        start="parts",
        note="Mixtral 8x7B with Chinese words added to its vocabulary; number of samples as recalled from the paper",
    ),
    Stage(
        name="align",
        data=(DataSource(name="captions and questions about pictures and videos", kind="image-text pairs"),),
        objective=LanguageModeling(),
        train=("connectors.image",),
        optimizer=AdamW(lr=5e-4, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(512, 6200),
        start="language",
    ),
    Stage(
        name="visual",
        data=(DataSource(name="captions and questions about pictures and videos", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(640, 6200),
        start="align",
    ),
    Stage(
        name="sound",
        data=(DataSource(name="WenetSpeech, GigaSpeech, WavCaps", kind="audio-text pairs"),),
        objective=LanguageModeling(),
        train=("encoders.audio", "connectors.audio"),
        optimizer=AdamW(),
        start="visual",
        note="the encoder learned by CTC before, with a head that was not published; the language model stays as it is",
    ),
    Stage(
        name="instruct",
        data=(DataSource(name="questions, half of them spoken, and sound to be ignored", kind="conversations"),),
        objective=LanguageModeling(),
        train=("connectors.image", "backbone"),
        optimizer=AdamW(lr=2e-5, clip=1.0),
        schedule=Cosine(warmup_ratio=0.03),
        budget=budget(768, 9100),
        start="sound",
        note="every answer begins with its state token; noise is answered by <2> and what the text model would say",
    ),
)
