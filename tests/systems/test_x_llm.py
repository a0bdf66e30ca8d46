"""X-LLM: prompts in the pieces of its published code, frames, features of speech, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_layout
from polymodal.check.evidence.visualglm import SPECIALS
from polymodal.check.evidence.x_llm import EARS, small
from polymodal.check.film import film
from polymodal.checkpoints.chatglm_picture import TEMPLATE
from polymodal.connectors.bert_adaptor import BertAdaptorConfig
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.template import written
from polymodal.encoders.cif_conformer import integrate
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems.x_llm import SYSTEM
from polymodal.systems.x_llm.processing import one_question

PICTURE = pm.image(Pillow.new("RGB", (60, 40), (200, 30, 30)))
SPEECH = pm.array(np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32))
FILM = pm.video(film([Pillow.new("RGB", (80, 56), (2 * i, 0, 0)) for i in range(45)], rate=4))
ASK, ANSWER = "\u95ee\uff1a", "\n\u7b54\uff1a"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path)


def folder_of(path: Path, **changes: Any) -> Path:
    config = small(byte_tokenizer(path, SPECIALS, eos="<eop>", pad="<pad>"), 0) | changes
    write_config(path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_layout(path / "model.pth", spec.build(), SYSTEM.formats[0], spec)
    return path


def told(text: str) -> Message:
    return Message(role="assistant", parts=(Text(text),))


def shown(*messages: Message) -> str:
    return written(TEMPLATE.render(one_question(messages), ask=messages[-1].role == "user"))


def test_prompts() -> None:
    assert shown(user("What?", SPEECH, PICTURE)) == f"<image><>{ASK}What?{ANSWER}[gMASK]<sop>"
    talk = (user(PICTURE, "What?"), told("A cat."), user("Why?", SPEECH))
    rounds = f"[Round 0]\n{ASK}What?{ANSWER}A cat.\n[Round 1]\n{ASK}Why?{ANSWER}"
    assert shown(*talk) == f"<image><>{rounds}[gMASK]<sop>"
    assert shown(*talk, told("So.")) == f"<image><>{rounds}[gMASK]<sop>So.<eop>"
    assert shown(user("Q"), told("A")) == f"{ASK}Q{ANSWER}[gMASK]<sop>A<eop>"


@pytest.mark.parametrize(
    ("parts", "found"), [((PICTURE, PICTURE), "2 and 0"), ((PICTURE, FILM), "2 and 0"), ((SPEECH, SPEECH), "0 and 2")]
)
def test_one_item_of_each_kind_is_taken(parts: tuple[Any, ...], found: str) -> None:
    with pytest.raises(PromptError, match=f"1 picture or video and 1 utterance, .*; found {found}"):
        shown(user(*parts, "What?"))


def test_items_stand_between_their_tags(folder: Path) -> None:
    model = pm.load(folder)
    tokenizer, places = model.processor.tokenizer, {v: k[0] for k, v in model.module.placeholders.items()}

    def said(*parts: Any) -> str:
        ids = model.processor([user(*parts)], generate=True)["input_ids"][0].tolist()
        marked = "".join(f"\0{places[i]}\0" if i in places else tokenizer.decode([i], skip_special=False) for i in ids
                         if i in places or i in tokenizer.special_ids or i < 0)  # fmt: skip
        return marked.replace("\0", "")

    assert said("Q", SPEECH, PICTURE) == "iiiifff[gMASK]<sop>"
    assert said("Q", FILM) == "v" * 4 * 10 + "[gMASK]<sop>"


def test_a_video_is_a_frame_a_second_and_ten_at_most(folder: Path) -> None:
    model = pm.load(folder)
    batch = model.processor([user(FILM, "What?")])
    assert batch["frame_counts"] == (10,)
    seconds = [FILM.clip(times=[float(FILM.frame_times[4 * i])]).frames[0] for i in range(10)]
    transform = model.processor.modalities["video"].transform.transform
    assert torch.equal(batch["video_values"], torch.stack([transform(frame) for frame in seconds]))
    one = model.features(video_values=batch["video_values"][:1], frame_counts=(1,))["video"][0]
    still = model.features(pixel_values=batch["video_values"][:1])["image"][0]
    assert one.shape == still.shape and not torch.allclose(one, still)  # other queries, another linear


def test_rows_of_zeros_are_seen_by_nobody(folder: Path) -> None:
    model = pm.load(folder)
    rows = torch.from_numpy(np.asarray(SPEECH.values))
    longer = torch.cat((rows, torch.zeros(2, 512)))
    alone, padded = (model.features(speech_input=each[None])["features"][0] for each in (rows, longer))
    torch.testing.assert_close(padded[:3], alone, atol=1e-5, rtol=0)
    assert len(padded) == 5 and bool((alone >= 0).all())
    both = model.features(speech_input=torch.stack((longer, longer)), speech_lengths=(3, 5))["features"]
    assert [len(item) for item in both] == [3, 5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 80), np.float32), r"expected rows of 512 features, found \[3, 80\]"),
        (np.zeros(512, np.float32), r"expected rows of 512 features, found \[512\]"),
        (np.ones((600, 512), np.float32), "600 rows of features, this model takes 512 at most; cut the utterance"),
    ],
)
def test_numbers_that_are_no_features_are_refused(folder: Path, values: np.ndarray, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        pm.load(folder).processor([user(pm.array(values), "What?")])


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(ConfigError, match="speech_adaptor_type 'cnn' is not supported; expected bert or fc"):
        SYSTEM.formats[0].model_spec(small(40, 32) | {"speech_adaptor_type": "cnn"})
    with pytest.raises(PromptError, match="videos of 3 frames are announced, found 2"):
        connector = SYSTEM.formats[0].model_spec(small(40, 32)).build().connectors["image"]
        connector(torch.zeros(2, 17, 48), frame_counts=(1, 2))
    with pytest.raises(PromptError, match=r"2 items of 3 rows, but \[4, 1\] are announced"):
        BertAdaptorConfig(in_width=4, out_width=8, bert=None).build()(torch.zeros(2, 3, 4), lengths=(4, 1))


def test_parts_of_a_release_are_joined(folder: Path, tmp_path: Path) -> None:
    """ChatGLM in a folder of its own beside what LAVIS writes."""
    from polymodal.check.fixture import store

    whole = torch.load(folder / "model.pth", weights_only=True)["model"]
    language = {name.removeprefix("opt_model."): x for name, x in whole.items() if name.startswith("opt_model.")}
    expected = pm.load(folder).logits(input_ids=torch.tensor([[5, 6, 0, 1, 7]]))
    (folder / "chatglm").mkdir()
    store(language, folder / "chatglm" / "pytorch_model.bin", "")
    write_config(folder / "chatglm", config={"model_type": "chatglm"})
    store({name: x for name, x in whole.items() if not name.startswith("opt_model.")}, folder / "model.pth", "model")
    assert torch.equal(pm.load(folder).logits(input_ids=torch.tensor([[5, 6, 0, 1, 7]])), expected)


def sound(seconds: float, loud: float = 1.0) -> Any:
    return pm.audio((loud * np.random.default_rng(1).standard_normal(int(16_000 * seconds)).astype(np.float32), 16_000))


def test_a_recording_has_as_many_tokens_as_are_fired(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path, speech_config=EARS))
    talks = [[user(sound(seconds), "What is said?")] for seconds in (0.4, 1.1)]
    batch = model.processor(talks)
    found = model.features(**batch)["audio"]
    assert tuple(map(len, found)) == tuple(batch["item_tokens"]["audio"]) and batch["audio_frames"] == (38, 108)
    alone = model.features(**model.processor(talks[0]))["audio"][0]
    torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=0)
    both = [user(sound(0.4), "What is said?", SPEECH)]
    with pytest.raises(PromptError, match="1 picture or video and 1 utterance"):
        model.processor(both)


def test_recordings_that_do_not_fit_are_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(PromptError, match="this model takes text, image, video, features; found audio"):
        pm.load(folder).processor([user(sound(1.0), "What?")])
    (tmp_path / "short").mkdir()
    bert = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 96,
            "max_position_embeddings": 8}  # fmt: skip
    model = pm.load(folder_of(tmp_path / "short", speech_config=EARS, bert_config=bert))
    with pytest.raises(MediaError, match=r"acoustic tokens, this model takes 8 at most; cut it"):
        model.processor([user(sound(2.0), "What?")])
    with pytest.raises(MediaError, match="expected at least 7 frames, found 5"):
        model.processor([user(sound(0.066), "What?")])
    with torch.no_grad():
        model.module.get_parameter("encoders.features.encoder.weigh.bias").fill_(-20.0)
    with pytest.raises(MediaError, match="nothing is heard in 38 frames: their weights do not add up to a token"):
        model.processor([user(sound(0.4), "What?")])
    with pytest.raises(ConfigError, match="speech_config lacks num_mel_bins; no size of the encoder was published"):
        given = {name: value for name, value in EARS.items() if name != "num_mel_bins"}
        SYSTEM.formats[0].model_spec(small(40, 32) | {"speech_config": given})


def test_weights_add_up_and_fire() -> None:
    """By hand: 0.4 + 0.6 fires, of 0.8 + 0.5 a feature takes 1 and 0.3 is left, 0.3 + 0.3 is a rest above a half."""
    states = torch.eye(5)
    fired = torch.stack(integrate(states, torch.tensor([0.4, 0.6, 0.8, 0.5, 0.3]), 0.99, 0.5))
    wanted = [[0.4, 0.6, 0, 0, 0], [0, 0, 0.8, 0.2, 0], [0, 0, 0, 0.5, 0.5]]
    torch.testing.assert_close(fired, torch.tensor(wanted))
    assert len(integrate(states, torch.tensor([0.4, 0.6, 0.8, 0.5, 0.1]), 0.99, 0.5)) == 2
    assert integrate(states, torch.full((5,), 0.05), 0.99, 0.5) == []
