"""VITA's prompts piece by piece, its media, the state of an answer, what is refused."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, writer
from polymodal.check.evidence.vita import small
from polymodal.check.film import film
from polymodal.check.fixture import read
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.kaldi import POVEY, fbank
from polymodal.errors import ConfigError, MediaError, PromptError, WeightsError
from polymodal.systems.vita import SYSTEM, TEXT
from polymodal.systems.vita.checkpoint import AUDIO, RELEASED
from polymodal.systems.vita.processing import LANGUAGE, SHOWN, STATES, frame_numbers, read_state

MODEL = Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model"
SETTINGS = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": False,
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}  # fmt: skip
RELEASE = {**TEXT, "model_type": "vita-mixtral", "architectures": ["VITAMixtralForCausalLM"], **RELEASED}
SQUARE, WIDE = (pm.image(Pillow.new("RGB", size)) for size in ((56, 56), (168, 56)))
SOUND = pm.audio((np.sin(np.arange(8_000) / 9).astype(np.float32), 16_000))  # 48 frames, 11 features, 6 tokens
FILM = pm.video(film([Pillow.new("RGB", (80, 56), (40 * i, 0, 0)) for i in range(6)], rate=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of(tmp_path)


def folder_of(path: Path, **changes: Any) -> Path:
    size = byte_tokenizer(path, ["<unk>", "<s>", "</s>", *STATES], bos="<s>", eos="</s>", pad="<unk>")
    config = small(size) | changes
    write_config(path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    writer(path, spec)(spec.build())
    return path


def shown(ids: list[int], tokenizer: Any) -> str:
    names = {-200: "<i>", -201: "<v>", -500: "<a>"}
    return "".join(names[id] if id < 0 else tokenizer.decode([id], skip_special=False) for id in ids)


def test_the_prompt_of_several_turns(folder: Path) -> None:
    model = pm.load(folder)
    talk = [
        {"role": "user", "content": [SOUND, "Look", WIDE]},
        {"role": "assistant", "content": "Dogs."},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "<2>Cats."},
        {"role": "user", "content": "Now?"},
    ]
    batch = model.processor(talk, generate=True)
    assert shown(batch["input_ids"][0].tolist(), model.processor.tokenizer) == (
        f"<s>system:{LANGUAGE}{SHOWN.format('image', 'video')}</s>\nuser:{'<i>' * 16}\nLook{'<a>' * 6}</s>"
        "\nbot:<1>Dogs.</s>\nuser:And?</s>\nbot:<2>Cats.</s>\nuser:Now?</s>\nbot:"
    )
    assert batch["tile_counts"] == (4,) and batch["audio_lengths"] == (48,) and batch["audios"].shape == (1, 48, 80)
    learned = model.processor(talk[:4])
    said = shown(learned["labels"][0][learned["labels"][0] >= 0].tolist(), model.processor.tokenizer)
    assert said == "<1>Dogs.</s><2>Cats.</s>"


def test_what_was_typed_is_answered_with_its_own_state_and_system_words(folder: Path) -> None:
    processor = pm.load(folder).processor
    typed = [{"role": "user", "content": "<2> is a token"}, {"role": "assistant", "content": "No."}]
    assert shown(processor(typed)["input_ids"][0].tolist(), processor.tokenizer) == (
        f"<s>system:{LANGUAGE}</s>\nuser:<2> is a token</s>\nbot:<3>No.</s>"
    )
    assert (processor(typed)["input_ids"] == processor.tokenizer.special("<2>")).sum() == 0
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [FILM, "What?"]}]
    batch = processor(own, generate=True)
    frames = len(batch["video_values"])
    assert 4 <= frames <= 16 and batch["frame_counts"] == (frames,)
    assert shown(batch["input_ids"][0].tolist(), processor.tokenizer) == (
        f"<s>system:Be brief.</s>\nuser:{'<v>' * 4 * frames}\nWhat?</s>\nbot:"
    )
    filmed = shown(processor(own[1:], generate=True)["input_ids"][0].tolist(), processor.tokenizer)
    assert filmed.startswith(f"<s>system:{LANGUAGE}{SHOWN.format('video', 'image')}</s>")


def test_pieces_are_tokenised_apart_as_published(tmp_path: Path) -> None:
    """The published code splits the prompt at its items and drops the begin token of all pieces but the first."""
    transformers = pytest.importorskip("transformers")
    shutil.copy(MODEL, tmp_path / "tokenizer.model")
    write_config(tmp_path, tokenizer_config=SETTINGS)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    processor = SYSTEM.formats[0].model_spec(small(603)).assemble(None, CheckpointFiles(tmp_path)).processor
    talk = [{"role": "user", "content": [SQUARE, "What is it?", SOUND]}, {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": "Why?"}]  # fmt: skip
    prompt = (
        f"system:{LANGUAGE}{SHOWN.format('image', 'video')}</s>\nuser:<image>\nWhat is it?<audio></s>\nbot:<1>A dog."
        "</s>\nuser:Why?</s>\nbot:"
    )
    wanted = [theirs.bos_token_id]
    for piece in re.split(r"(<audio>|<image>)", prompt):
        if piece in ("<audio>", "<image>"):
            wanted += [-200] * 4 if piece == "<image>" else [-500] * 6
        else:
            wanted += theirs(piece).input_ids[1:]
    assert processor(talk, generate=True)["input_ids"][0].tolist() == wanted


def test_filter_banks_are_the_published_ones() -> None:
    stored = read("vita_fbank")[1]
    samples = stored["in.samples"] * 2.0**15
    torch.testing.assert_close(fbank(samples.double(), 80, power=POVEY), stored["out.fbank"], atol=1e-4, rtol=0)
    torch.testing.assert_close(fbank(samples, 80, power=POVEY), stored["out.fbank"], atol=1e-3, rtol=0)  # data/kaldi.py


@pytest.mark.parametrize(
    ("length", "step", "wanted"),
    [(150, 30, [0, 30, 60, 90, 120]), (10, 30, [0, 0, 0, 0]), (90, 30, [0, 0, 30, 60]),
     (1000, 25, [0, 50, 125, 175, 250, 325, 375, 450, 500, 575, 650, 700, 775, 825, 900, 975])],
)  # fmt: skip
def test_frames_are_spread_as_published(length: int, step: int, wanted: list[int]) -> None:
    assert frame_numbers(length, step) == wanted


def test_a_shorter_recording_is_heard_as_alone(folder: Path) -> None:
    model = pm.load(folder)
    longer = pm.audio((np.sin(np.arange(20_000) / 5).astype(np.float32), 16_000))
    both = model.processor([[{"role": "user", "content": [each]}] for each in (SOUND, longer)])
    alone = model.processor([{"role": "user", "content": [SOUND]}])
    found, wanted = model.features(**both)["audio"][0], model.features(**alone)["audio"][0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_states_are_read_off_answers() -> None:
    assert read_state("<1> Yes.") == ("<1>", "Yes.") and read_state("<2>") == ("<2>", "")
    assert read_state("Plain <1>") == (None, "Plain <1>")


@pytest.mark.parametrize(
    ("samples", "words"), [(1_000, r"0\.06 s of sound, this model takes 0\.09 to 200\.06 s"), (3_300_000, r"206\.25 s")]
)
def test_sound_of_no_fitting_length_is_refused(folder: Path, samples: int, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        pm.load(folder).processor([{"role": "user", "content": [pm.audio((np.zeros(samples, np.float32), 16_000))]}])


def test_a_prompt_that_is_too_long_names_what_it_holds(tmp_path: Path) -> None:
    model = pm.load(folder_of(tmp_path, tokenizer_model_max_length=40))
    talk = [{"role": "system", "content": "."}, {"role": "user", "content": [WIDE, WIDE, SOUND]}]
    with pytest.raises(PromptError, match=r"32 image and 6 audio\) for a limit of 40"):
        model.processor(talk)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio_config": {}}, "audio_config.concat_after True is not supported; expected False"),
        ({"audio_config": AUDIO | {"use_relative_pe": False}}, "use_relative_pe False is not supported; expected True"),
        ({"audio_config": AUDIO | {"hidden_size": 30}}, "whale: width 30 must be even and a multiple of its 16"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act 'relu' is not supported; expected 'gelu'"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy 'full' is not supported"),
        ({"audio_projector_kernel_size": 0}, "strided conv: expected kernel, stride and widening of 1 or more"),
    ],
)
def test_options_that_are_not_supported_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(small(40) | changes)


def test_the_release_s_config_has_the_demonstration_s_sizes() -> None:
    with torch.device("meta"):
        configs = (SYSTEM.variants[0].config, RELEASE)
        specs = [format.model_spec(config) for format, config in zip(SYSTEM.formats, configs, strict=True)]
        both = [spec.build().state_dict() for spec in specs]
    assert {name: x.shape for name, x in both[0].items()} == {name: x.shape for name, x in both[1].items()}
    for changes, words in (
        ({"mm_audio_encoder": "whale-small"}, "mm_audio_encoder 'whale-small': only the sizes of audio-encoder-2wh"),
        ({"mm_projector_type": "spp"}, "mm_projector_type 'spp' is not supported; expected mlp2x_gelu"),
        ({"image_aspect_ratio": "pad"}, "image_aspect_ratio 'pad' is not supported; expected square"),
    ):
        with pytest.raises(ConfigError, match=words):
            SYSTEM.formats[1].model_spec(RELEASE | changes)


def test_a_checkpoint_without_its_bins_means_is_refused(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.audio_encoder.encoder.global_cmvn.mean"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"encoders\.audio\.mean"):
        pm.load(folder)
