"""Recordings that enter through an encoder: the room laid out is what the model fills, and words stand around."""

import numpy as np
import pytest
import torch

from polymodal.connectors.ctc import CTCConnectorConfig
from polymodal.data.media import Audio, Text
from polymodal.data.mel import MelConfig
from polymodal.data.messages import Message
from polymodal.data.modalities import modality_of
from polymodal.data.processor import Processor
from polymodal.data.template import SMOLLM2
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.errors import MediaError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.pipelines.speech_as_features import AFTER, BEFORE, LENGTHS, SpeechAsFeatures
from tiny_models import WIDTH, scrambled, tiny_decoder
from tiny_text import letters_tokenizer

PLACE = 3  # <reponame>


def sound(seconds: float) -> Audio:
    samples = np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32)
    return Audio((samples * 0.1, 16_000))


@pytest.fixture(scope="module")
def listening() -> SpeechAsFeatures:
    tokenizer = letters_tokenizer()
    encoder = scrambled(WhisperEncoderConfig(width=16, depth=1, heads=2, frames=200).build(), 1)
    spoken = scrambled(CTCConnectorConfig(vocab_size=40, width=16, kernel=3, key_width=8).build(16, WIDTH), 2)
    backbone = scrambled(tiny_decoder(vocabulary=300), 3)
    letters = [index for index in range(tokenizer.vocab_size) if tokenizer.decode([index]).strip().isalpha()]
    spoken.token_ids.copy_(torch.tensor((letters * 40)[:40]))
    spoken.set_embeddings(backbone.embed_tokens.weight)
    inputs = {"audio": ModalityInputs(values=modality_of("audio").values, connector=(LENGTHS,))}
    model = MultimodalLM({"audio": encoder}, {"audio": spoken}, backbone, {"audio": PLACE}, inputs=inputs).eval()
    return SpeechAsFeatures(model, tokenizer, MelConfig(seconds=2))


def processor(listening: SpeechAsFeatures) -> Processor:
    return Processor(tokenizer=letters_tokenizer(), template=SMOLLM2, modalities=(listening.modality("<reponame>"),),
                     rewrite=listening.rewrite)  # fmt: skip


def test_a_batch_holds_the_room_that_its_recordings_take(listening: SpeechAsFeatures) -> None:
    batch = processor(listening)([[{"role": "user", "content": ["what?", sound(1.7)]}],
                                  [{"role": "user", "content": [sound(0.4), sound(0.9)]}]])  # fmt: skip
    features = listening._model.features(**batch)["audio"]
    assert [len(item) for item in features] == [listening.count(listening.values(sound(s))) for s in (1.7, 0.4, 0.9)]
    assert (batch["input_ids"] == PLACE).sum() == sum(len(item) for item in features)
    assert torch.isfinite(listening._model(**batch).logits).all()


def test_what_is_heard_is_text_too(listening: SpeechAsFeatures) -> None:
    said = listening.text(sound(1.0))
    assert said and said == listening.text(sound(1.0))


def test_recordings_beside_typed_words_are_quoted(listening: SpeechAsFeatures) -> None:
    recording = sound(0.3)
    alone = Message(role="user", parts=(recording,))
    typed = Message(role="user", parts=(Text("Who is it?"), recording))
    assert listening.rewrite((alone, typed)) == (
        alone, Message(role="user", parts=(Text("Who is it?"), Text(BEFORE), recording, Text(AFTER))),
    )  # fmt: skip


def test_a_recording_longer_than_a_window_is_refused(listening: SpeechAsFeatures) -> None:
    with pytest.raises(MediaError, match="3 s of sound, this model takes 2 s"):
        listening.values(sound(3.0))


def test_silence_is_no_words(listening: SpeechAsFeatures) -> None:
    assert listening.text(Audio((np.zeros(16_000, np.float32), 16_000))) == ""
