"""Names that the survey calls systems by find their files, however they are spelled; each record has its own too."""

import pytest

from polymodal import systems
from polymodal.errors import UnknownName

NAMES = {
    "vit": ("ViT", "Vision Transformer"),
    "clip": ("CLIP", "clip"),
    "albef": ("ALBEF",),
    "blip": ("BLIP",),
    "flava": ("FLAVA",),
    "beit": ("BEiT", "BEIT"),
    "vilt": ("ViLT",),
    "blip-2": ("BLIP-2", "BLIP2", "blip_2"),
    "instructblip": ("InstructBLIP",),
    "minigpt-4": ("MiniGPT-4", "MiniGPT4"),
    "llava": ("LLaVA", "LLaVA v1"),
    "llava-1.5": ("LLaVA-1.5", "llava 1.5", "LLaVA v1.5"),
    "llava-1.6": ("LLaVA-1.6", "LLaVA-NeXT"),
    "kosmos-1": ("KOSMOS-1", "Kosmos1"),
    "kosmos-2": ("KOSMOS-2", "Kosmos2"),
    "fuyu-8b": ("Fuyu-8B", "Fuyu"),
    "qwen2-vl": ("Qwen2-VL", "qwen2vl"),
    "flamingo": ("Flamingo",),
    "openflamingo": ("OpenFlamingo",),
    "idefics": ("IDEFICS",),
    "cogvlm": ("CogVLM",),
    "cogagent": ("CogAgent",),
    "cogcom": ("CogCoM",),
    "llama-adapter-v2": ("LLaMA-Adapter V2", "LLaMA-AdapterV2"),
    "mplug-owl2": ("mPLUG-Owl2",),
    "chameleon": ("Chameleon",),
    "emu3": ("Emu3",),
    "imagebind": ("ImageBind",),
    "video-llama": ("Video-LLaMA",),
    "pandagpt": ("PandaGPT",),
    "next-gpt": ("NExT-GPT",),
    "mult": ("MulT", "Multimodal Transformer"),
    "tigerbot": ("TigerBot",),
    "bayling": ("BayLing",),
    "chinese-llama-2": ("Chinese-Llama-2", "Chinese-LLaMA-2"),
    "sphinx": ("SPHINX", "sphinx"),
    "visual-chatgpt": ("Visual ChatGPT", "Visual-ChatGPT"),
    "hugginggpt": ("HuggingGPT", "JARVIS"),
    "audiogpt": ("AudioGPT",),
    "vipergpt": ("ViperGPT",),
    "mm-react": ("MM-REACT",),
}


@pytest.mark.parametrize(("id", "name"), [(id, name) for id, names in NAMES.items() for name in (id, *names)])
def test_a_survey_s_name_finds_its_system(id, name):
    assert systems.get(name).id == id


@pytest.mark.parametrize("system", systems.every(), ids=lambda system: system.id)
def test_the_names_of_a_record_find_it(system):
    assert system.aliases or system.id == "mini"
    assert all(systems.get(name) is system for name in (system.id, *system.aliases, system.id.replace("-", " ")))


ADDRESSES = [("llava:1.5-7b", "llava-1.5", "7b"), ("LLaVA-1.5:13b", "llava-1.5", "13b")]


@pytest.mark.parametrize(("address", "id", "variant"), ADDRESSES)
def test_a_variant_may_be_part_of_the_name(address, id, variant):
    system, found = systems.find(address)
    assert (system.id, found.name) == (id, variant)


def test_no_two_systems_share_a_name():
    owners = {}
    for system in systems.every():
        for name in {systems.plain(name) for name in (system.id, *system.aliases)}:
            assert owners.setdefault(name, system.id) == system.id, name


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"did you mean 'llava'"):
        systems.get("lava")
