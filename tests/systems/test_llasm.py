"""LLaSM's prompts in the pieces of its published code, its spectrograms, and recordings that do not fit."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llasm
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.errors import ConfigError, MediaError, WeightsError
from polymodal.systems.llasm import SYSTEM
from polymodal.systems.llasm.checkpoint import WORDS, MelConfig, spectrogram

MODEL = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}  # fmt: skip
SOUND = pm.audio((np.sin(np.arange(12_000) / 9).astype(np.float32), 16_000))
SHOWN = f"<au_start>{'<au_patch>' * 6}<au_end>"
TALK = [
    {"role": "user", "content": [SOUND]},
    {"role": "assistant", "content": "A tone."},
    {"role": "user", "content": "Why?"},
]


def assembled(folder: Path, vocabulary: int, **settings):
    """Our processor, and the library's tokenizer with the words that the official code adds."""
    transformers = pytest.importorskip("transformers")
    shutil.copy(MODEL, folder / "tokenizer.model")
    write_config(folder, tokenizer_config={**SETTINGS, **settings})
    spec = SYSTEM.formats[0].model_spec(llasm.small(vocabulary, folder / "whisper"))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.add_tokens(["<au_patch>", "<au_start>", "<au_end>"], special_tokens=True)
    return spec.assemble(None, CheckpointFiles(folder)).processor, theirs


@pytest.mark.parametrize("own", ["", "Answer in Chinese."])
def test_chinese_llama_2_reads_the_system_message_twice(own: str, tmp_path: Path) -> None:
    processor, theirs = assembled(tmp_path, 603)
    system = f"<<SYS>>\n{own or WORDS}\n<</SYS>>\n\n"
    wanted = [*theirs.encode(system, add_special_tokens=False), *theirs.encode(f"[INST] {system}{SHOWN} [/INST] "),
              *theirs.encode("A tone. ", add_special_tokens=False), theirs.eos_token_id,
              *theirs.encode("[INST] Why? [/INST] ")]  # fmt: skip
    talk = [{"role": "system", "content": own}, *TALK] if own else TALK
    assert processor(talk, generate=True)["input_ids"][0].tolist() == wanted


def test_baichuan_is_prompted_in_its_pieces(tmp_path: Path) -> None:
    processor, theirs = assembled(tmp_path, 64003, add_bos_token=False)
    pieces = (WORDS, "USER:", SHOWN, "ASSISTANT:", "A tone.</s>", "USER:", "Why?", "ASSISTANT:")
    wanted = [id for piece in pieces for id in theirs.encode(piece, add_special_tokens=False)]
    assert processor(TALK, generate=True)["input_ids"][0].tolist() == wanted


def test_spectrograms_are_whisper_s() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperFeatureExtractor()
    wanted = theirs(SOUND.samples(16_000), sampling_rate=16_000, return_tensors="pt")["input_features"][0]
    assert (spectrogram(SOUND, MelConfig()) - wanted).abs().max() < 1e-4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = llasm.small(size + 3, tmp_path / "whisper")
    write_config(tmp_path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(tmp_path, spec.build(), spec.keys[0])
    return tmp_path


def test_every_recording_has_its_place(folder: Path) -> None:
    """The published loop keeps the last one alone."""
    model = pm.load(folder)
    two = model.processor([{"role": "user", "content": [SOUND, "and", SOUND]}])
    silent = {**two, "audio_values": torch.stack((two["audio_values"][0] * 0, two["audio_values"][1]))}
    assert (model.logits(**two) - model.logits(**silent))[0, -1].abs().max() > 1e-4
    assert model.chat(TALK, max_tokens=2).tokens["audio"] == 6


def test_a_recording_longer_than_the_window_is_refused(folder: Path) -> None:
    long = pm.audio((np.zeros(40_000, np.float32), 16_000))
    with pytest.raises(MediaError, match=r"recording of 2\.50 s is longer than the window of 1 s"):
        pm.load(folder).chat(long, "Q")


def test_what_cannot_be_read_is_refused_by_its_name(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for changes, words in (
        ({"mm_audio_tower": "openai/whisper-tiny"}, "mm_audio_tower 'openai/whisper-tiny' is neither a folder"),
        ({"audio_token_len": 13}, r"queries must be in 1\.\.12"),
    ):
        write_config(folder, config=config | changes)
        with pytest.raises(ConfigError, match=words):
            pm.load(folder)


def test_a_checkpoint_without_its_tower_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    llasm.EVIDENCE.cases[0].make(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config=config | {"mm_audio_tower": "openai/whisper-large-v2"})
    with pytest.raises(WeightsError, match="leaves out its audio tower 'openai/whisper-large-v2'; fetch that"):
        pm.load(tmp_path)
