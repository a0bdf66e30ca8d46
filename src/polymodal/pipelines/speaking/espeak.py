"""eSpeak NG as a phonemizer: a clause of text -> IPA with stress marks; it reads numbers and guesses unknown words.

The library is that of the package espeakng-loader, else the machine's own (Debian: apt install libespeak-ng1).
Traps: it keeps one voice for the whole process, so calls take turns; it drops punctuation, so whoever needs that hands
in clauses; versions before 1.52 read beyond their buffers on text that means harm (CVE-2023-49990 to 49993).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import threading
from functools import cache

from polymodal.errors import ConfigError

OLDEST = (1, 52)
TIE = "^"  # between the letters of one sound: d^ʒ
_WITHOUT_OUTPUT, _DO_NOT_EXIT = 2, 0x8000
_UTF8 = 1
_IPA, _TIED = 0x02, 0x80
_OTHER_LANGUAGE = re.compile(r"\([\w^-]+\)")  # (en) in front of an English word in French
_LOCK = threading.Lock()


def ipa(clause: str, language: str) -> str:
    """The sounds of a clause, words apart by spaces, the letters of one sound joined by TIE.

    language: as eSpeak NG names it: "en-us", "fr".  Raises ConfigError where there is no such library or language.
    """
    text = clause.replace("\0", " ").encode("utf-8", "replace")
    with _LOCK:
        library = _library()
        if library.espeak_SetVoiceByName(language.encode()) != 0:
            raise ConfigError(f"this eSpeak NG has no language {language!r}")
        buffer = ctypes.create_string_buffer(text)
        rest = ctypes.c_void_p(ctypes.addressof(buffer))
        found = []
        while rest.value:
            sounds = library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | _TIED | ord(TIE) << 8)
            found.append((sounds or b"").decode("utf-8", "replace"))
    return " ".join(_OTHER_LANGUAGE.sub("", " ".join(found)).split())


@cache
def _library() -> ctypes.CDLL:
    path, data = _where()
    try:
        library = ctypes.CDLL(path)
    except OSError as problem:
        raise ConfigError(f"eSpeak NG cannot be loaded from {path}: {problem}") from problem
    library.espeak_TextToPhonemes.restype = library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_int]
    if library.espeak_Initialize(_WITHOUT_OUTPUT, 0, data, _DO_NOT_EXIT) < 0:
        raise ConfigError(f"eSpeak NG at {path} does not find its data")
    version = (library.espeak_Info(None) or b"").decode()
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        raise ConfigError(f"eSpeak NG {version} is too old, expected 1.52 or newer: pip install espeakng-loader")
    return library


def _where() -> tuple[str, bytes | None]:
    """The library's path, and that of its data where it does not know it itself.  Raises ConfigError."""
    try:
        import espeakng_loader
    except ImportError:
        path = ctypes.util.find_library("espeak-ng")
        if path is None:
            raise ConfigError(
                "speaking needs eSpeak NG for the sounds of words: pip install 'polymodal[say]'"
            ) from None
        return path, None
    return espeakng_loader.get_library_path(), espeakng_loader.get_data_path().encode()
