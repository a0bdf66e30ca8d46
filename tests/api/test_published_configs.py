"""Checkpoints as they were published: each is recognised with its size and its names, or refused in one line.

fixtures/published.json: per folder its config.json, the names in its weight index ("layers.{}.x": how many, or which)
and, under `source`, the repository and commit that they are from.  Paths in the configs are cut to their last part.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.api import published
from polymodal.checkpoints import albef_blip_keys
from polymodal.errors import PolymodalError, WeightsError
from polymodal.systems import every, get
from polymodal.systems.mplug_owl2 import SYSTEM as MPLUG_OWL2
from polymodal.weights.build import build_empty
from polymodal.weights.placement import placement

FOLDERS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "published.json").read_text("utf-8"))
WHOLE = Path(__file__).parents[3] / "shared" / "published"  # the same folders with all their small files

READ = {  # folder -> system, parameters
    "Emu1-llama-13b": ("language-model", 13_015_864_320),
    "InternVL2-8B": ("internvl", 8_075_365_376),
    "OTTER-LLaMA7B-0616": ("otter", 8_220_461_072),
    "OTTER-MPT7B": ("otter", 8_131_299_344),
    "Qwen-Audio": ("qwen-audio", 8_394_302_464),
    "Qwen-VL-Chat": ("qwen-vl", 9_656_935_168),
    "blip-captioning-resaved": ("blip", 223_971_644),  # and 23,442,432 more with the head that its file holds
    "blip2-flan-t5-xl": ("blip-2", 3_942_446_592),
    "blip2-opt-2.7b-first": ("blip-2", 3_744_679_936),
    "clip-vit-base-patch32": ("clip", 151_277_313),
    "fuyu-8b-first": ("fuyu-8b", 9_408_238_592),
    "internlm-xcomposer-7b": ("internlm-xcomposer", 8_797_872_000),
    "internlm-xcomposer-vl-7b": ("internlm-xcomposer", 8_797_888_384),
    "llava-1.5-7b-hf": ("llava-1.5", 7_063_425_024),
    "llava-v1.5-7b": ("llava-1.5", 7_062_900_736),
    "vicuna-7b-delta-v0": ("language-model", 6_738_423_808),
    "vilt-b32-mlm": ("vilt", 135_658_554),
}
REFUSED = {  # folder -> a piece of the reason
    "flamingo-hf": "Otter's Flamingo; that system is not here",
    "flamingo-mpt-7B": "Otter's Flamingo; that system is not here",
    "VisCPM-cpm-bee-10b": "holds no weights",
    "albef-bert-config": "holds no weights",
    "blip-official-med-config": "holds no weights",
    "llava-tower-names": "holds no weights",
    "mplug-owl2-llama2-7b-names": "holds no weights",
    "uniter": "holds no weights",
    "vilbert": "holds no weights",
}
SAFETENSORS = "model.safetensors.index.json"
POST_NORM = 2_048  # parameters of CLIP's norm behind its last block, which LLaVA does not use


def names_of(folder: str, file: str) -> Iterator[str]:
    """The names in a weight index."""
    for name, indices in FOLDERS[folder]["weights"][file]["names"].items():
        if indices is None:
            yield name
        else:
            yield from (name.replace("{}", str(i)) for i in (range(indices) if isinstance(indices, int) else indices))


def written(folder: str, parent: Path) -> Path:
    """A folder of that name with the published config, or with what there is instead."""
    path = parent / folder
    path.mkdir()
    if "config" in FOLDERS[folder]:
        (path / "config.json").write_text(json.dumps(FOLDERS[folder]["config"]), encoding="utf-8")
    for name, table in FOLDERS[folder].get("other", {}).items():
        (path / name).write_text(json.dumps(table), encoding="utf-8")
    return path


def test_every_folder_has_an_expectation() -> None:
    assert set(FOLDERS) == set(READ) | set(REFUSED)


@pytest.mark.parametrize("folder", READ)
def test_a_published_folder_is_recognised_with_its_size(folder: str, tmp_path: Path) -> None:
    found = published.recognise(written(folder, tmp_path))
    module = build_empty(found.format.model_spec(found.config).build)
    assert (found.system.id, sum(p.numel() for p in module.parameters())) == READ[folder]


@pytest.mark.parametrize(("folder", "reason"), REFUSED.items())
def test_others_are_refused_in_one_line(folder: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as refusal:
        published.recognise(written(folder, tmp_path))
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)


INDEXES = [(folder, file) for folder in READ for file in FOLDERS[folder].get("weights", {})]


@pytest.mark.parametrize(("folder", "file"), INDEXES)
def test_every_name_of_a_published_index_is_used_or_dropped_by_name(folder: str, file: str, tmp_path: Path) -> None:
    found = published.recognise(written(folder, tmp_path))
    spec = found.format.model_spec(found.config)
    targets = list(build_empty(spec.build).state_dict())
    names = list(names_of(folder, file))
    if folder == "llava-v1.5-7b":  # its tower lies in a repository of its own
        tower = (name.partition("vision_tower.")[2] for name in names_of("llava-1.5-7b-hf", SAFETENSORS))
        names += [f"model.vision_tower.vision_tower.{name}" for name in tower if name.startswith("vision_model.")]
        assert set(names_of("llava-tower-names", "names.txt")) <= set(names)
    report = min((table.check(names, targets) for table in spec.keys), key=lambda each: len(each.problems))
    report.require()
    assert not report.new
    unused = ("rotary_emb.inv_freq", "post_layernorm.weight", "post_layernorm.bias", "coder.embed_tokens.weight")
    assert all(name.endswith(unused) for name in report.dropped)


@pytest.mark.parametrize(
    ("folder", "bytes_each", "beside"),
    [("blip2-flan-t5-xl", 4, 0), ("fuyu-8b-first", 2, 0), ("llava-1.5-7b-hf", 2, POST_NORM)],
)
def test_sizes_are_those_that_the_published_index_counts(folder: str, bytes_each: int, beside: int) -> None:
    total = FOLDERS[folder]["weights"][SAFETENSORS]["total_size"]
    assert total == (READ[folder][1] + beside) * bytes_each


def test_mplug_owl2_names_that_the_published_file_lacks() -> None:
    spec = MPLUG_OWL2.model_spec(MPLUG_OWL2.variants[0])
    state = build_empty(spec.build).state_dict(keep_vars=True)
    table = spec.keys[0]
    absent = set(names_of("mplug-owl2-llama2-7b-names", "names.txt"))
    computed = {name for name, x in state.items() if not x.is_meta}
    assert len(absent) == len(computed) == 12
    uses = {table.use_of(name) for name in absent}
    assert {target for use in uses if use is not None for target in use.targets} == computed


@pytest.mark.parametrize(
    ("folder", "file"),
    [("blip-official-med-config", "med_config.json"), ("albef-bert-config", "config_bert.json")],
)
def test_sizes_read_off_official_files_are_those_of_their_config(folder: str, file: str) -> None:
    """The official files of BLIP and ALBEF come without their config: it is read off the shapes of the tensors."""
    said = FOLDERS[folder]["other"][file]
    width, prefix = said["hidden_size"], "text_encoder"
    layer = f"{prefix}.encoder.layer.{{}}."
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.embeddings.word_embeddings.weight": (said["vocab_size"], width),
        f"{prefix}.embeddings.position_embeddings.weight": (said["max_position_embeddings"], width),
        **{f"{layer.format(i)}intermediate.dense.weight": (said["intermediate_size"], width)
           for i in range(said["num_hidden_layers"])},
    }  # fmt: skip
    found = albef_blip_keys.text_of(shapes, prefix)
    assert found == {name: said[name] for name in found}
    if "fusion_layer" in said:
        config = get("albef").variants[0].config
        assert config is not None and config["text_config"]["fusion_layer"] == said["fusion_layer"]


def test_differences_to_other_weights_are_not_run_and_not_the_default(tmp_path: Path) -> None:
    import polymodal as pm

    with pytest.raises(PolymodalError, match="differences to LLaMA, which are no model by themselves"):
        pm.load(written("vicuna-7b-delta-v0", tmp_path))
    with pytest.raises(PolymodalError, match=r"llava:7b-v1\.1 was published as differences to LLaMA"):
        pm.load("llava:7b-v1.1", offline=True)
    for name in ("llava", "bayling", "language-model"):
        assert not get(name).variants[0].difference_to


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the folders with all their small files are not at hand")
def test_whole_folders_with_their_other_files() -> None:
    place = placement("cpu", torch.float32, None)
    for path in sorted(each for each in WHOLE.iterdir() if each.is_dir()):
        if path.name in READ:
            found = published.recognise(path)
            assert found.system.id == READ[path.name][0]
            with pytest.raises(PolymodalError) as refusal:  # there are no weights
                published.open_folder(path, found, place)
        else:
            with pytest.raises(WeightsError) as refusal:
                published.recognise(path)
        assert "\n" not in str(refusal.value)


def test_a_repository_of_differences_is_refused_before_its_weights_are_fetched(tmp_path: Path) -> None:
    path = written("vicuna-7b-delta-v0", tmp_path) / "config.json"
    with pytest.raises(PolymodalError, match="hub lmsys/vicuna-7b-delta-v0@main was published as differences to"):
        published.check_config(path, None, "hub lmsys/vicuna-7b-delta-v0@main")
    published.check_config(path, None, "hub somebody/vicuna-7b@main")


CARRIED = {  # what old files carry beside the tensor that ends so: buffers that are computed
    "embeddings.position_embedding.weight": ("embeddings.position_ids",),
    "embeddings.position_embeddings.weight": ("embeddings.position_ids",),
    "attention.query_key_value.weight": ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
    "self_attn.v_proj.weight": ("self_attn.rotary_emb.inv_freq",),
}
WITHOUT = ("vision", "visual", "audio_tower.", "text_model", "gated_cross_attn", "Qformer", "opt_model",
           "model.decoder.", "h.{}.", "image_encoder.", "transformer.layers.")  # fmt: skip
"""Parts whose families never had rotary tables or causal masks among their buffers."""
NEVER_RELEASED = ("audiopalm", "flamingo", "palm-e")


@pytest.mark.parametrize("system", [s for s in every() if s.formats and s.id not in NEVER_RELEASED], ids=lambda s: s.id)
def test_computed_buffers_that_old_files_carry_are_dropped_by_name(system: Any) -> None:
    spec = system.model_spec(next(each for each in system.variants if each.config is not None))
    table = spec.keys[0]
    for name in {source for row in table.rows for source in row.sources}:
        for ending, buffers in CARRIED.items():
            rotary = not ending.startswith("embeddings")
            if not name.endswith(ending) or (rotary and any(each in name for each in WITHOUT)):
                continue
            for buffer in buffers:
                carried = (name.removesuffix(ending) + buffer).replace("{}", "0")
                use = table.use_of(carried)
                assert use is not None and not use.targets, carried
