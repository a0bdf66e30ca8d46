"""Published folders of test size, one of each kind of fusion, loaded with every parameter random and a tokenizer of
bytes beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import (
    chameleon,
    cogagent,
    cogcom,
    cogvlm,
    flamingo,
    fuyu_8b,
    idefics,
    internlm_xcomposer2,
    internvl,
    kosmos_1,
    kosmos_2,
    llava_1_5,
    mplug_owl2,
    openflamingo,
    qwen2_vl,
    qwen_vl,
    viscpm,
)

LLAMA = ["<unk>", "<s>", "</s>"]
CROP = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
Files = dict[str, dict[str, Any]]


def _flamingo(folder: Path) -> tuple[dict[str, Any], Files]:
    marks = {flamingo.BOS: 0, flamingo.END: 1, flamingo.IMAGE: flamingo.MEDIA}
    return flamingo.small(byte_tokenizer(folder, marks, bos=flamingo.BOS, eos=flamingo.END, pad=flamingo.END)), {}


def _idefics(folder: Path) -> tuple[dict[str, Any], Files]:
    marks = {"<unk>": 0, "<s>": 1, "</s>": 2, idefics.FAKE: 259, idefics.IMAGE: 260, idefics.EOU: 261}
    size = byte_tokenizer(folder, marks, bos="<s>", eos="</s>", pad="<unk>")
    return idefics.small(size), {"preprocessor_config": {"image_size": 32}}


def _openflamingo(folder: Path) -> tuple[dict[str, Any], Files]:
    marks = {openflamingo.END: 256, openflamingo.IMAGE: 257, openflamingo.PAD: 258}
    return openflamingo.small(byte_tokenizer(folder, marks), 257), {}


def _with_llamas_tokens(small: Callable[[int], dict[str, Any]]) -> Callable[[Path], tuple[dict[str, Any], Files]]:
    def write(folder: Path) -> tuple[dict[str, Any], Files]:
        return small(byte_tokenizer(folder, LLAMA, bos="<s>", eos="</s>", pad="<unk>")), {}

    return write


def _llava(folder: Path) -> tuple[dict[str, Any], Files]:
    size = byte_tokenizer(folder, ["<s>", "</s>", "<image>"], bos="<s>", eos="</s>", pad="</s>")
    return llava_1_5.small(size, 2), {"preprocessor_config": CROP}


def _qwen2_vl(folder: Path) -> tuple[dict[str, Any], Files]:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
             "<|video_pad|>"]  # fmt: skip
    size = byte_tokenizer(folder, names, eos="<|im_end|>", pad="<|endoftext|>")
    return qwen2_vl.small(size, 5, 6), {"preprocessor_config": {"min_pixels": 56 * 56, "max_pixels": 112 * 112}}


def _qwen_vl(folder: Path) -> tuple[dict[str, Any], Files]:
    size = byte_tokenizer(folder, qwen_vl.SPECIALS, eos="<|endoftext|>", pad="<|endoftext|>")
    return qwen_vl.small(size, qwen_vl.IMG) | {"seq_length": 16, "use_dynamic_ntk": False}, {}


def _internvl(folder: Path) -> tuple[dict[str, Any], Files]:
    size = byte_tokenizer(folder, internvl.SPECIALS, bos="<s>", eos="</s>", pad="</s>")
    return internvl.small(size, internvl.SPECIALS.index("<IMG_CONTEXT>")), {}


def _xcomposer2(folder: Path) -> tuple[dict[str, Any], Files]:
    size = byte_tokenizer(folder, internlm_xcomposer2.SPECIALS, bos="<s>", eos="</s>", pad="</s>")
    return internlm_xcomposer2.small(size), {}


def _fuyu(folder: Path) -> tuple[dict[str, Any], Files]:
    names = ["<s>", "|ENDOFTEXT|", "|SPEAKER|", "|NEWLINE|", "<0x04>"]
    size = byte_tokenizer(folder, names, bos="<s>", eos="|ENDOFTEXT|", pad="|ENDOFTEXT|")
    return fuyu_8b.small(size, 2), {"preprocessor_config": {"size": {"width": 120, "height": 120}}}


def _kosmos(folder: Path) -> tuple[dict[str, Any], Files]:
    return kosmos_2.small(kosmos_2.write_words(folder)), {}


def _kosmos_1(folder: Path) -> tuple[dict[str, Any], Files]:
    return kosmos_1.small(kosmos_1.write_words(folder)), {}


def _viscpm(folder: Path) -> tuple[dict[str, Any], Files]:
    return viscpm.small(byte_tokenizer(folder, viscpm.MARKS, bos="<s>", eos="</s>", pad="<pad>")), {}


def _chameleon(folder: Path) -> tuple[dict[str, Any], Files]:
    names = chameleon.SPECIALS
    size = byte_tokenizer(folder, names, bos="<s>", eos="</s>", pad="</s>")
    sides = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    return chameleon.small(size, names.index("<image>")), {"preprocessor_config": sides}


FOLDERS: dict[str, Callable[[Path], tuple[dict[str, Any], Files]]] = {
    "flamingo": _flamingo,  # A
    "idefics": _idefics,  # A
    "openflamingo": _openflamingo,  # A, ALiBi
    "cogagent": _with_llamas_tokens(cogagent.small),  # A, B and C, a picture at two sizes
    "cogcom": _with_llamas_tokens(cogcom.small),  # B and C, positions by turns
    "cogvlm": _with_llamas_tokens(cogvlm.small),  # B and C
    "mplug-owl2": _with_llamas_tokens(mplug_owl2.small),  # B and C
    "internlm-xcomposer2": _xcomposer2,  # B and C, low-rank paths
    "llava-1.5": _llava,  # C
    "internvl": _internvl,  # C, tiles
    "qwen-vl": _qwen_vl,  # C, beyond the trained length
    "qwen2-vl": _qwen2_vl,  # C, positions on three axes
    "fuyu-8b": _fuyu,  # C, without an encoder
    "kosmos-1": _kosmos_1,  # C, places by a mask, xPos
    "kosmos-2": _kosmos,  # C, places by a mask, positions by ids
    "viscpm": _viscpm,  # C, places by a mask, a tree that sees itself both ways
    "chameleon": _chameleon,  # D
}


def tiny(name: str, folder: Path, **changes: Any) -> pm.Model:
    """The system's tiny folder, written to `folder` and loaded; changes: of its config."""
    config, files = FOLDERS[name](folder)
    config = {**config, **changes}
    write_config(folder, config=config, **files)
    model_spec = systems.get(name).formats[0].model_spec(config)
    module = model_spec.build()
    randomise.fill(module)
    write_weights(folder, module, model_spec.keys[0])
    return pm.load(folder)
