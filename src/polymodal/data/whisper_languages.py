"""The languages of Whisper, in the order that fixes their token ids (arXiv:2212.04356).

`LANGUAGES` maps code -> English name; 99 belong to every model, the 100th (`yue`) to large-v3 and turbo.
Trap: the order is part of the checkpoint format, never sort it.
"""

from __future__ import annotations

from polymodal.errors import UnknownName

_TABLE = """
en english, zh chinese, de german, es spanish, ru russian, ko korean, fr french, ja japanese, pt portuguese, tr turkish,
pl polish, ca catalan, nl dutch, ar arabic, sv swedish, it italian, id indonesian, hi hindi, fi finnish, vi vietnamese,
he hebrew, uk ukrainian, el greek, ms malay, cs czech, ro romanian, da danish, hu hungarian, ta tamil, no norwegian,
th thai, ur urdu, hr croatian, bg bulgarian, lt lithuanian, la latin, mi maori, ml malayalam, cy welsh, sk slovak,
te telugu, fa persian, lv latvian, bn bengali, sr serbian, az azerbaijani, sl slovenian, kn kannada, et estonian,
mk macedonian, br breton, eu basque, is icelandic, hy armenian, ne nepali, mn mongolian, bs bosnian, kk kazakh,
sq albanian, sw swahili, gl galician, mr marathi, pa punjabi, si sinhala, km khmer, sn shona, yo yoruba, so somali,
af afrikaans, oc occitan, ka georgian, be belarusian, tg tajik, sd sindhi, gu gujarati, am amharic, yi yiddish, lo lao,
uz uzbek, fo faroese, ht haitian creole, ps pashto, tk turkmen, nn nynorsk, mt maltese, sa sanskrit, lb luxembourgish,
my myanmar, bo tibetan, tl tagalog, mg malagasy, as assamese, tt tatar, haw hawaiian, ln lingala, ha hausa, ba bashkir,
jw javanese, su sundanese, yue cantonese
"""

LANGUAGES: dict[str, str] = {
    code: name for code, name in (entry.strip().split(" ", 1) for entry in _TABLE.replace("\n", " ").split(","))
}


def language_code(language: str, count: int = 99) -> str:
    """Code of a language given by code or name ("fr", "French"); UnknownName when not among the first `count`."""
    name = language.strip().lower()
    known = dict(list(LANGUAGES.items())[:count])
    by_name = {name: code for code, name in known.items()}
    code = name if name in known else by_name.get(name)
    if code is None:
        raise UnknownName(
            f"language {language!r} is not one of the {count} languages of this Whisper model; "
            f"give a code such as 'en' or a name such as 'french'"
        )
    return code
