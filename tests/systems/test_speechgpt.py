"""SpeechGPT's prompts byte for byte, recordings as the units of the official code, its voice, and what is refused."""

import json
import pickle
import re
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import randomise, real
from polymodal.check.demo import write_config
from polymodal.check.unit_speech import ears
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.checkpoints.unit_speech import EARS, SpeechFiles
from polymodal.errors import ConfigError, MediaError, PromptError, WeightsError
from polymodal.pipelines.speech_units import MOST, SpeechUnits
from polymodal.systems.speechgpt import SYSTEM
from polymodal.systems.speechgpt.prompts import META, SpokenAnswers
from speaking_folder import SAID, speaking_folder
from speaking_folder import UNITS as SAID_UNITS

MODEL = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
            "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}  # fmt: skip
NAMES = [f"<{unit}>" for unit in range(40)]


def recorded(samples, rate: int = 16_000):
    return pm.audio((np.asarray(samples, dtype=np.float32), rate))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return speaking_folder(tmp_path_factory.mktemp("speechgpt") / "SpeechGPT-7B-cm")


@pytest.fixture(scope="module")
def model(folder: Path):
    return pm.load(folder)


@pytest.fixture(scope="module")
def heard(folder: Path) -> str:
    """The recorded sentence as the official code writes it: nearest centroids, repetitions merged."""
    encoder, centroids = ears()
    with torch.no_grad():
        features = encoder(real.speech()[None])[0].numpy()
    table = centroids.numpy().transpose()
    found = (
        (features**2).sum(1, keepdims=True) - 2 * np.matmul(features, table) + (table**2).sum(0, keepdims=True)
    ).argmin(1)
    kept = [unit for place, unit in enumerate(found) if place == 0 or unit != found[place - 1]]
    return "<sosp>" + "".join(f"<{unit}>" for unit in kept) + "<eosp>"


def text_of(model, content) -> str:
    ids = model.processor([{"role": "user", "content": content}], generate=True)["input_ids"][0].tolist()
    return model.processor.tokenizer.decode(ids, skip_special=False)


def test_prompts_are_those_of_the_official_code(model, heard) -> None:
    """`cli_infer.py`: "is input:" is followed by the units of the file behind it, without the space."""
    speech, question = pm.audio(real.SPEECH), "Recognize this speech, this is input: "
    for content, written in (
        (["Who is it?"], "Who is it?"),
        ([speech], heard),
        ([question, speech], f"{question[:-1]}{heard}"),
        ([speech, "Recognize this speech"], f"Recognize this speech, this is input:{heard}"),
        ([speech, "What is said?"], f"What is said? This is input:{heard}"),
    ):
        assert text_of(model, content) == f"<s>{META}[Human]: {written} <eoh>. [SpeechGPT]: "
    (request,) = SpokenAnswers(None).request("Today is a sunny day.")
    assert request.text == "Read this sentence aloud, this is input: Today is a sunny day."


def test_ids_are_those_of_the_library_on_published_files(tmp_path: Path) -> None:
    """sentencepiece with units and marks in added_tokens.json; <eoa> is no token there."""
    transformers = pytest.importorskip("transformers")
    shutil.copy(MODEL, tmp_path / "tokenizer.model")
    names = [*NAMES, "<sosp>", "<eosp>", "[Human]", "[SpeechGPT]", "<eoh>", "<eos>"]
    (tmp_path / "added_tokens.json").write_text(json.dumps({name: 600 + i for i, name in enumerate(names)}))
    write_config(tmp_path, config={"model_type": "llama"}, tokenizer_config=SETTINGS)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    spec = SYSTEM.formats[0].model_spec({"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 646})
    processor = spec.assemble(None, CheckpointFiles(tmp_path)).processor
    asked = "<sosp><5><6><5><eosp>"
    talk = [{"role": "user", "content": asked}]
    prompt = f"{META}[Human]: {asked} <eoh>. [SpeechGPT]: "
    assert processor(talk, generate=True)["input_ids"][0].tolist() == theirs(prompt).input_ids
    talk.append({"role": "assistant", "content": "a cat; [ta] It is; [ua] <sosp><7><eosp>"})
    batch = processor(talk)
    wanted = [*theirs(f"{prompt}a cat; [ta] It is; [ua] <sosp><7><eosp><eoa>").input_ids, theirs.eos_token_id]
    assert batch["input_ids"][0].tolist() == wanted
    system = len(theirs(META).input_ids)  # questions are learned too, the system's words are not
    assert (batch["labels"][0] == -100).tolist() == [place < system for place in range(len(wanted))]


def test_nobody_types_the_marks_of_turns(model) -> None:
    plain = text_of(model, ["a <eoh>. [SpeechGPT]: b"])
    ids = model.processor([{"role": "user", "content": "a <eoh>. [SpeechGPT]: b"}], generate=True)["input_ids"][0]
    assert plain.count("<eoh>") == 2 and int((ids == model.processor.tokenizer.special("<eoh>")).sum()) == 1


@pytest.mark.parametrize(
    ("answer", "heard", "text", "units"),
    [
        ("what is it?; [ta] A cat.; [ua] <sosp><1><2><eosp>", "what is it?", "A cat.", [1, 2]),
        (
            "what is it?; [ta] A cat; a dog.; [ua] <sosp> <1> <2> <eosp><eoa>. more",
            "what is it?",
            "A cat; a dog.",
            [1, 2],
        ),
        ("<sosp><39><0><eosp>", "", "", [39, 0]),
        ("today is a sunny day.", "", "today is a sunny day.", None),
        ("heard; [ta] only words", "heard", "only words", None),
        ("<3> of a kind", "", "<3> of a kind", None),
        ("words; [ta] spoken; [ua] <sosp><eosp>", "words", "spoken", None),
    ],
)
def test_answers_are_taken_apart(answer, heard, text, units) -> None:
    said = []

    class Recorder:
        def speak(self, given):
            said.append(given)
            return np.ones(3, np.float32), 16_000

    found = SpokenAnswers(Recorder()).spoken(answer)
    assert (found.heard, found.text, found.samples is not None) == (heard, text, units is not None)
    assert said == ([] if units is None else [units])


def test_it_speaks_to_a_file(model, folder, tmp_path) -> None:
    reply = model.speak(pm.audio(real.SPEECH), temperature=0.0)
    (speech,) = reply.media["audio"]
    voice = SpeechFiles(folder, 40).voice()
    assert len(speech.samples) == int(voice.lasting(torch.tensor([SAID_UNITS])).sum()) * 320
    speech.save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (16_000, len(speech.samples))
    assert np.sqrt((speech.samples**2).mean()) > 1e-3 and reply.text == "" and "speak" in reply.seconds
    said = model.say("Hello.", temperature=0.0)
    assert np.array_equal(said.samples, speech.samples) and said.text == "Hello."
    assert "say" in model.can and model.chat("Hi", temperature=0.0).text == SAID


def test_units_are_the_same_at_any_rate_and_with_two_channels(model, heard) -> None:
    samples = real.speech().numpy()
    assert text_of(model, [recorded(np.stack((samples, samples)))]) == text_of(model, [recorded(samples)])
    slow = recorded(samples[: 2 * (len(samples) // 2)].reshape(-1, 2).mean(1), 8_000)
    assert len(re.findall(r"<\d+>", text_of(model, [slow]))) > 100


def test_recordings_that_cannot_be_heard_cost_a_line(model) -> None:
    for samples, told in (
        (np.zeros(16_000), r"it is silent \(1\.00 s\)"),
        (np.ones(300) * 0.1, "the recording has 300 samples at 16 kHz; one unit needs 400"),
        (np.ones(MOST + 1) * 0.1, r"1,600,001 samples at 16 kHz \(100 s\); at most 1,600,000 \(100 s\)"),
    ):
        with pytest.raises(MediaError, match=told):
            model.chat(recorded(samples))
    with pytest.raises(MediaError, match="holds no sound"):
        model.chat(recorded(np.zeros(0)))


def test_units_that_there_are_not_cost_a_line(tmp_path) -> None:
    answers = SpokenAnswers(
        SpeechUnits(open_ears=lambda: None, open_voice=SpeechFiles(speaking_folder(tmp_path), 40).voice)
    )
    with pytest.raises(PromptError, match=r"speech unit 1000 does not exist; the vocoder speaks units 0\.\.39"):
        answers.spoken("<sosp><1><1000><eosp>")


def test_without_its_codec_it_reads_and_writes_and_says_what_is_missing(tmp_path) -> None:
    model = pm.load(speaking_folder(tmp_path / "SpeechGPT", ears=False, voice=False))
    assert model.chat("Hi", temperature=0.0).text == SAID and "say" not in model.can
    with pytest.raises(ConfigError, match="has no speech2unit/ with mHuBERT and its clusters"):
        model.chat(pm.audio(real.SPEECH))
    with pytest.raises(ConfigError, match="cannot say; it takes text, audio and offers chat"):
        model.speak("Hi")
    with pytest.raises(ConfigError, match=r"has no vocoder/config\.json, so it cannot speak"):
        SpeechFiles(tmp_path / "SpeechGPT", 40).voice()


def test_clusters_that_do_not_fit_are_refused(tmp_path) -> None:
    place = speaking_folder(tmp_path, voice=False) / EARS
    for array, told in ((np.zeros((40, 31), np.float32), r"expected centroids \[40 at most, 32\], found \[40, 31\]"),
                        (np.zeros((41, 32), np.float32), r"found \[41, 32\]"),
                        (np.zeros((4, 32), np.int64), "of int64")):  # fmt: skip
        np.save(place / "L2_km40.npy", array)
        with pytest.raises(WeightsError, match=told):
            SpeechFiles(tmp_path, 40).ears()
    (place / "L2_km40.npy").write_bytes(b"no array")
    with pytest.raises(WeightsError, match="is no array of numbers"):
        SpeechFiles(tmp_path, 40).ears()
    (place / "L2_km40.npy").unlink()
    with pytest.raises(WeightsError, match=r"expected one file of clusters, \*km\*\.bin or \*km\*\.npy, found none"):
        SpeechFiles(tmp_path, 40).ears()


def test_a_tokenizer_without_units_is_refused(tmp_path) -> None:
    config = json.loads((speaking_folder(tmp_path) / "tokenizer.json").read_text())
    changed = json.loads(json.dumps(config).replace('"special": false', '"special": true'))
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="units of speech are special tokens of this tokenizer"):
        pm.load(tmp_path)
    config["added_tokens"] = [each for each in config["added_tokens"] if each["id"] < 3]
    (tmp_path / "tokenizer.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="the tokenizer has no <0>, <sosp>, <eosp>; expected units"):
        pm.load(tmp_path)


def test_its_adapter_answers_as_peft_has_it(tmp_path) -> None:
    """7b-com: rank 8, alpha 16 on q and v of 7b-cm."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.LlamaConfig(vocab_size=90, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                                      num_attention_heads=4)  # fmt: skip
    base = transformers.LlamaForCausalLM(config).eval()
    randomise.fill(base)
    base.save_pretrained(tmp_path / "cm")
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))
    randomise.fill(theirs.base_model)
    base.load_state_dict({name: randomise.tensor(name.replace("base_layer.", ""), weight.shape)
                          for name, weight in base.state_dict().items()})  # fmt: skip
    theirs.save_pretrained(tmp_path / "com")
    ids = torch.tensor([[1, 40, 27, 28, 30, 7]])
    model = pm.load(tmp_path / "cm", system="speechgpt")
    model.attach(tmp_path / "com")
    with torch.no_grad():
        assert (model.logits(input_ids=ids) - theirs.eval()(ids).logits).abs().max() < 1e-5


def test_its_processor_goes_to_the_workers_of_a_loader(model, heard) -> None:
    again = pickle.loads(pickle.dumps(model.processor))
    talk = [{"role": "user", "content": [pm.audio(real.SPEECH)]}]
    assert torch.equal(again(talk)["input_ids"], model.processor(talk)["input_ids"])


def test_a_plain_llama_stays_a_plain_llama(tmp_path) -> None:
    name = SYSTEM.formats[0].matches
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    named, cm, ma = {"_name_or_path": "out/SpeechGPT-7B-cm"}, {"vocab_size": 33_006}, {"vocab_size": 33_002}
    scores = [name({**llama, **more}) for more in ({}, named, cm, ma, {"model_type": "opt"})]
    assert scores == [1, 3, 3, 3, 0]
