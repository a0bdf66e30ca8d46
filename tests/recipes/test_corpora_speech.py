"""Readers of recordings, on tiny packages of the same layout."""

import json

import numpy as np
import pytest
import soundfile
from corpora import speech

from polymodal.data.audio import read_audio
from polymodal.data.sets import split
from polymodal.errors import MediaError


def save(path, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(800) / 5).astype(np.float32) * 0.3, rate)


def test_tuxpaint_captions(tmp_path):
    root = tmp_path / "usr/share/tuxpaint/stamps/animals"
    for name in ("frog_desc.ogg", "frog_desc_fr.ogg", "frog_desc_de.ogg", "frog.ogg", "owl_desc.ogg"):
        save(root / name)
    (root / "frog.txt").write_text("A frog.\nfr.utf8=Une grenouille.\n\n", encoding="utf-8")
    (english,) = speech.open_tuxpaint(tmp_path)
    assert (english.text, english.language, english.hint) == ("A frog.", "en", "frog")
    assert english.key == "a frog" and english.split == split.split_of("a frog")
    both = speech.open_tuxpaint(tmp_path, ("en", "fr", "de"))
    assert [recording.text for recording in both] == ["A frog.", "Une grenouille."]  # German has no text
    assert {recording.split for recording in both} == {english.split}
    assert read_audio(english.path, 16000).dtype == np.float32


def test_asterisk_has_no_truth(tmp_path):
    save(tmp_path / "usr/share/asterisk/sounds/en_US_f_Allison/digits/day-3.wav")
    (prompt,) = speech.open_asterisk(tmp_path)
    assert prompt.text is None and prompt.hint == "day 3" and prompt.key == "digits/day-3"


def test_asterisk_with_the_texts_of_upstream(tmp_path):
    for name in ("digits/day-3", "beep", "silence/1", "dir-multi1", "new"):
        save(tmp_path / f"usr/share/asterisk/sounds/en_US_f_Allison/{name}.wav")
    texts = tmp_path / "core-sounds-en.txt"
    lines = ("; no: comment", "", "digits/day-3: Wednesday", "beep: [a tone]", "silence/1: (so)", "dir-multi1: Press")
    texts.write_text("\n".join(lines))
    prompts = speech.open_asterisk(tmp_path, texts)
    assert sorted((p.text, p.key) for p in prompts) == [("Press", "press"), ("Wednesday", "wednesday")]


def test_picovoice_names_terms_only(tmp_path):
    save(tmp_path / "data/speech/clean/a.wav")
    (tmp_path / "data/label").mkdir(parents=True)
    labels = {"a.wav": {"slots": {"size": "large", "drink": "Iced coffee"}}, "gone.wav": {"slots": {}}}
    (tmp_path / "data/label/label.json").write_text(json.dumps(labels))
    (order,) = speech.open_picovoice(tmp_path)
    assert order.text is None and order.hint == order.key == "large iced coffee"


def test_pocketsphinx(tmp_path):
    folder = tmp_path / "usr/share/pocketsphinx/test/data/librivox"
    save(folder / "book-0870.wav", 16000)
    (folder / "transcription").write_text("<s> he was  not ill </s> (book-0870)\nmissing (book-1)\n(\n")
    (sentence,) = speech.open_pocketsphinx(tmp_path)
    assert (sentence.text, sentence.split) == ("he was not ill", "test")
    assert len(read_audio(sentence.path, 16000)) == 800


READERS = [speech.open_tuxpaint, speech.open_asterisk, speech.open_pocketsphinx, speech.open_picovoice]


@pytest.mark.parametrize("reader", READERS)
def test_missing(tmp_path, reader):
    with pytest.raises(MediaError, match="unpack"):
        reader(tmp_path)
