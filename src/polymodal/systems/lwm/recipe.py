"""How LWM was trained (arXiv 2402.08268): a longer context stage by stage, each with its own rope, then pictures.

Bases of rope are the README's; steps, rates and data are recalled from the paper, not read again.  Sequences are packed
and do not see each other; a batch is counted in tokens, 4 million of text and 8 million with pictures.
"""

from polymodal.systems import AdamW, Budget, Constant, Cosine, DataSource, LanguageModeling, Stage

LENGTHS = {"32k": (32_768, 1200), "128k": (131_072, 3000), "256k": (262_144, 3000), "512k": (524_288, 720),
           "1m": (1_048_576, 450)}  # fmt: skip
SEEN = ("pictures 1k", "pictures 8k", "videos 8k", "videos 32k", "chat 128k", "chat 1m")


def _text(name: str, start: str) -> Stage:
    length, steps = LENGTHS[name]
    return Stage(
        name=f"books {name}", data=(DataSource(name="Books3", kind="text"),), objective=LanguageModeling(),
        train=("backbone",), optimizer=AdamW(lr=4e-5), schedule=Constant(), start=start,
        budget=Budget(batch=4_194_304 // length, steps=steps, max_length=length),
    )  # fmt: skip


def _seen(name: str, length: int, kind: str, data: str, start: str) -> Stage:
    first = name == SEEN[0]
    return Stage(
        name=name, data=(DataSource(name=data, kind=kind),), objective=LanguageModeling(), train=("backbone",),  # type: ignore[arg-type]
        optimizer=AdamW(lr=6e-4 if first else 8e-5), schedule=Cosine() if first else Constant(), start=start,
        budget=Budget(batch=8_388_608 // length, max_length=length),
        note="text and pictures change places at random; a tenth without a text, 16 of 100 sequences are text alone",
    )  # fmt: skip


_NAMES = tuple(LENGTHS)
RECIPE = (
    *(_text(name, f"books {_NAMES[i - 1]}" if i else "parts") for i, name in enumerate(_NAMES)),
    Stage(
        name="text chat", start="books 1m", objective=LanguageModeling(), train=("backbone",),
        data=(DataSource(name="UltraChat", kind="conversations", share=0.7),
              DataSource(name="questions about books, made by a model", kind="conversations", share=0.3)),
        note="once from each length; the longest is written here",
    ),
    _seen(SEEN[0], 1024, "image-text pairs", "LAION-2B-en (filtered), COYO", "books 1m"),
    _seen(SEEN[1], 8192, "image-text pairs", "LAION-2B-en (filtered), COYO", SEEN[0]),
    _seen(SEEN[2], 8192, "video-text pairs", "WebVid10M, InternVid10M", SEEN[1]),
    _seen(SEEN[3], 32_768, "conversations", "Valley, Video-ChatGPT, ShareGPT4V", SEEN[2]),
    _seen(SEEN[4], 131_072, "conversations", "Valley, Video-ChatGPT, ShareGPT4V", SEEN[3]),
    _seen(SEEN[5], 1_048_576, "conversations", "Valley, Video-ChatGPT, ShareGPT4V", SEEN[4]),
)  # fmt: skip
