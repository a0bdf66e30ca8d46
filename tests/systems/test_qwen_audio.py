"""Qwen-Audio: prompts, lengths of recordings, times, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.evidence.qwen_audio import SPECIALS, START, small
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig, log_mel
from polymodal.data.messages import Message
from polymodal.encoders.qwen_audio import QwenAudioEncoderConfig
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.fusion.placeholder_mask import SpanMask
from polymodal.systems.qwen_audio import SYSTEM
from polymodal.systems.qwen_audio.checkpoint import Sound
from polymodal.systems.qwen_audio.times import read_times, spans_of, time_text


def sound(samples: int) -> Audio:
    return Audio((np.sin(np.arange(samples) / 9).astype(np.float32), 16_000))


def folder_of(path: Path, **changes: Any) -> Path:
    size = byte_tokenizer(path, SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>")
    config = small(size, START) | changes
    write_config(path, config=config, generation_config={"chat_format": "chatml", "eos_token_id": 0})
    spec = SYSTEM.formats[0].model_spec(config)
    writer(path, spec)(spec.build())
    return path


def test_the_prompt_of_several_turns(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path))
    talk = [
        Message(role="user", parts=(sound(3200), Text("What?"))),
        Message(role="assistant", parts=(Text("A tone."),)),
        Message(role="user", parts=(sound(1600), sound(16_000), Text("And now?"))),
    ]
    batch = model.processor(talk, generate=True)
    pad = "[[[AUDIO:modality]]]"
    heard = [f"<audio>{pad * count}</audio>" for count in (5, 2, 25)]
    assert model.processor.tokenizer.decode(batch["input_ids"][0].tolist(), skip_special=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\nAudio 1:{heard[0]}\nWhat?<|im_end|>\n<|im_start|>assistant\nA tone.<|im_end|>\n"
        f"<|im_start|>user\nAudio 2:{heard[1]}\nAudio 3:{heard[2]}\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert batch["input_audio_lengths"] == ((10, 5), (5, 2), (50, 25)) and batch["input_audios"].shape == (3, 80, 100)


@pytest.mark.parametrize("samples", [480, 799, 8000, 8159, 8160, 8161, 480_000])
def test_counts_are_those_of_the_published_formula(samples: int) -> None:
    """Two convolutions of width 3 and padding 1, the second with stride 2, then neighbours by pairs."""
    values = Sound(mel=MelConfig())(sound(samples))
    after = (samples // 160 + 2 - 2 - 1) // 2 + 1
    assert values["lengths"] == (after, (after - 2) // 2 + 1)
    whole = log_mel(np.sin(np.arange(samples) / 9).astype(np.float32))  # the peak is that of all 30 seconds
    torch.testing.assert_close(values["mel"], whole[:, : 2 * after])


@pytest.mark.parametrize("samples", [479, 480_001])
def test_recordings_that_are_too_short_or_too_long_are_named(samples: int) -> None:
    with pytest.raises(MediaError, match=r"s of sound, this model takes 0\.03 to 30 s; cut it into pieces"):
        Sound(mel=MelConfig())(sound(samples))


def test_a_batch_of_recordings_gives_what_each_gives_alone() -> None:
    encoder = QwenAudioEncoderConfig(
        whisper=WhisperEncoderConfig(width=16, depth=2, heads=2, mels=8, frames=40)
    ).build()
    randomise.fill(encoder)
    mels, lengths = randomise.values("mels", (3, 8, 40)), [(20, 10), (7, 3), (2, 1)]
    together = encoder(mels, lengths)
    for row, (before, behind) in enumerate(lengths):
        alone = encoder(mels[row : row + 1, :, : 2 * before], [(before, behind)])
        torch.testing.assert_close(together[row, :behind], alone[0, :behind], atol=1e-5, rtol=0)
    with pytest.raises(MediaError, match=r"expected 1 lengths, 2 to 20; found \[21\]"):
        encoder(mels[:1], [(21, 10)])


def test_features_stand_from_one_mark_to_the_other() -> None:
    ids = torch.tensor([[1, 7, 3, 3, 8, 2, 7, 8, 1], [7, 9, 8, 1, 1, 1, 7, 1, 8]])
    mask = SpanMask(first=7, last=8, name="m")({"input_ids": ids})["m"]
    assert mask.tolist() == [[0, 1, 1, 1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 1, 1, 1]]


def test_times_are_written_and_read_as_published() -> None:
    text = "starts at <|2.33|> seconds and ends at <|3.26|> seconds."
    assert read_times(text) == ("starts at 2.33 seconds and ends at 3.26 seconds.", (2.33, 3.26))
    assert [time_text(each) for each in (0, 2.33, 30)] == ["<|0.00|>", "<|2.33|>", "<|30.00|>"]
    assert spans_of(read_times(text)[1]) == ((2.33, 3.26),)
    with pytest.raises(PromptError, match=r"time 2.5 s: expected 0 to 2 s, the length of what is heard"):
        time_text(2.5, length=2.0)
    with pytest.raises(PromptError, match=r"time <\|31.00\|>: expected 0 to 30 s"):
        read_times("<|31.00|>")
    with pytest.raises(PromptError, match="span 3 to 2 s: expected its end behind its start"):
        spans_of((3.0, 2.0))
    with pytest.raises(PromptError, match="expected an even number of times, found 3"):
        spans_of((1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_dim": 32}, "audio.output_dim 32 must equal hidden_size 64"),
        ({"avg_pool": False}, "audio.avg_pool false is not supported"),
        ({"add_audio_bos_eos_token": False}, "audio.add_audio_bos_eos_token false is not supported"),
    ],
)
def test_configs_that_describe_no_model_are_named(changes: dict[str, Any], words: str) -> None:
    config = small(40, 3)
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(config | {"audio": config["audio"] | changes})
