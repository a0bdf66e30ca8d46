"""PEFT adapters on loaded models: equal to PEFT on a LLaVA and a CLIP, gone without a trace, written so that PEFT reads
them; folders that hold only an adapter load their base."""

import json
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.evidence import llava_1_5
from polymodal.check.library import quiet
from polymodal.errors import ConfigError, PolymodalError, UnknownName, WeightsError
from polymodal.nn.lora import apply_lora, lora_state
from polymodal.weights import hub

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")
TOLERANCE = 1e-5  # maximum absolute error of float32 logits of size 4


@dataclass(frozen=True, kw_only=True)
class Base:
    """A published checkpoint, its class, inputs for it and the name of its logits."""

    folder: Path
    kind: Any
    inputs: dict[str, Any]
    logits: str

    def library(self) -> Any:
        with quiet():
            return self.kind.from_pretrained(self.folder).eval()

    def by_peft(self, folder: Path) -> torch.Tensor:
        with quiet(), torch.no_grad():
            return getattr(peft.PeftModel.from_pretrained(self.library(), folder).eval()(**self.inputs), self.logits)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    with quiet() as transformers:
        config = llava_1_5.tiny(transformers, {}, {})
        llava = transformers.LlavaForConditionalGeneration(config)
        text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": 99, "eos_token_id": 98, "bos_token_id": 97, "max_position_embeddings": 16}  # fmt: skip
        vision = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "image_size": 28, "patch_size": 7}  # fmt: skip
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        )
        ids = randomise.ids("ids", (3, 9), 3, 97)
        ids[:, -1] = 98
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
                 "pixel_values": randomise.values("pixels", (2, 3, 28, 28))}  # fmt: skip
        found = {}
        for name, model, inputs, logits in (
            ("llava", llava, llava_1_5.inputs(config), "logits"), ("clip", clip, given, "logits_per_image")
        ):  # fmt: skip
            randomise.fill(model)
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            found[name] = Base(folder=folder, kind=type(model), inputs=inputs, logits=logits)
    return found


@pytest.mark.filterwarnings("ignore")
def made(base: Base, folder: Path, seed: int = 0, **options: Any) -> Path:
    """A PEFT folder whose parameters are all random."""
    with quiet(), torch.no_grad():
        model = peft.get_peft_model(base.library(), peft.LoraConfig(**options))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(randomise.tensor(f"adapter.{name}", parameter.shape, seed))
        model.peft_config["default"].base_model_name_or_path = str(base.folder)
        model.save_pretrained(folder, save_embedding_layers=base.logits == "logits")  # PEFT cannot for CLIP
    return folder


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (found - expected).abs().max().item()


def state(model: pm.Model) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in model.module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


CASES: dict[str, dict[str, Any]] = {
    "patterns": {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "fc1"],
                 "rank_pattern": {"layers.1.self_attn.q_proj": 2, "fc1": 5}, "alpha_pattern": {"v_proj": 7}},
    "dora everywhere": {"r": 4, "lora_alpha": 3, "use_dora": True, "target_modules": "all-linear", "lora_dropout": 0.1},
    "rank-stabilised, whole modules, biases": {
        "r": 4, "lora_alpha": 3, "use_rslora": True, "bias": "all", "modules_to_save": ["linear_2", "text_projection"],
        "target_modules": r".*(language_model|text_model).*\.(q_proj|down_proj|fc2)"},
    "embeddings, biases of what is adapted": {
        "r": 4, "lora_alpha": 3, "bias": "lora_only",
        "target_modules": ["embed_tokens", "token_embedding", "o_proj", "out_proj"]},
    "dora of embeddings": {"r": 2, "lora_alpha": 3, "use_dora": True,
                           "target_modules": ["embed_tokens", "token_embedding", "k_proj"]},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["llava", "clip"])
def test_equal_to_peft_attached_merged_and_saved(bases: Any, name: str, case: str, tmp_path: Path) -> None:
    base, folder = bases[name], made(bases[name], tmp_path / "adapter", **CASES[case])
    expected = base.by_peft(folder)
    model = pm.load(base.folder)
    before, plain = state(model), model.logits(**base.inputs)
    model.attach(folder)
    assert error(model.logits(**base.inputs), expected) <= TOLERANCE < error(plain, expected)
    saved = model.save_adapter(tmp_path / "saved")
    assert error(base.by_peft(saved), expected) <= TOLERANCE
    model.detach()
    assert same(before, state(model)) and torch.equal(model.logits(**base.inputs), plain)
    model.attach(folder)
    model.merge()
    assert list(state(model)) == list(before) and error(model.logits(**base.inputs), expected) <= TOLERANCE


MIDDLE = {"model.vision_tower.": "model.vision_tower.vision_model."}  # transformers 4.52 to 4.57
OLD = {
    "model.vision_tower.": "vision_tower.vision_model.", "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.", "lm_head.": "language_model.lm_head.",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spelling", [MIDDLE, OLD])
def test_names_of_older_libraries_find_the_same_modules(bases: Any, spelling: dict[str, str], tmp_path: Path) -> None:
    base, folder = bases["llava"], made(bases["llava"], tmp_path / "new", target_modules=["q_proj", "linear_1"], r=2)
    model = pm.load(base.folder, adapters=[folder])
    expected = model.logits(**base.inputs)
    model.detach()
    tensors = load_file(folder / "adapter_model.safetensors")
    prefix, renamed = "base_model.model.", {}
    for key, x in tensors.items():
        name = key.removeprefix(prefix)
        start = next((each for each in spelling if name.startswith(each)), "")
        renamed[f"{prefix}{spelling.get(start, '')}{name.removeprefix(start)}"] = x
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "adapter_model.safetensors")
    model.attach(folder)
    assert torch.equal(model.logits(**base.inputs), expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit", "beit", "emu3", "fuyu_8b", "qwen2_vl", "tigerbot"])
def test_systems_with_other_names_and_fused_weights(name: str, tmp_path: Path) -> None:
    """Names of the class in memory that differ from those on disk; q, k and v in one matrix, by heads or in a row."""
    evidence = import_module(f"polymodal.check.evidence.{name}").EVIDENCE
    case = next(each for each in evidence.cases if name != "beit" or "classifier" in each.name)
    expected = case.make(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    with quiet() as transformers:
        kind = getattr(transformers, config["architectures"][0])
    base = Base(folder=tmp_path / "base", kind=kind, inputs=expected.inputs, logits="logits")
    linears = [path for path, part in base.library().named_modules() if type(part) is torch.nn.Linear]
    tied = {"lm_head"} if config.get("tie_word_embeddings", True) and name == "tigerbot" else set()
    folder = made(base, tmp_path / "a", target_modules=sorted({*linears} - tied), r=2, lora_alpha=2,
                  use_dora=name == "qwen2_vl")  # fmt: skip
    model = pm.load(base.folder)
    mask = expected.inputs.get("attention_mask", torch.ones(1)).bool()
    model.attach(folder)
    found, theirs = model.logits(**base.inputs), base.by_peft(folder)
    if mask.shape == theirs.shape[:2]:
        found, theirs = found[mask], theirs[mask]
    assert error(found, theirs) <= TOLERANCE
    model.adapters.attached.clear()  # as if `apply_lora` had made it here
    state = lora_state(model.module, "a")
    for part in model.module.modules():
        if "a" in getattr(part, "adapters", ()):
            part.adapters["default"] = part.adapters.pop("a")
    assert state.keys() == lora_state(model.module).keys()
    again = base.by_peft(model.save_adapter(tmp_path / "saved"))
    assert error(again[mask] if mask.shape == again.shape[:2] else again, theirs) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_several_are_summed_with_their_weights_as_peft_does(bases: Any, tmp_path: Path) -> None:
    base = bases["llava"]
    first = made(base, tmp_path / "first", target_modules=["q_proj", "down_proj"], r=2)
    second = made(base, tmp_path / "second", seed=1, target_modules=["q_proj", "linear_1"], r=3)
    with quiet(), torch.no_grad():
        library = peft.PeftModel.from_pretrained(base.library(), first, adapter_name="first")
        library.load_adapter(second, adapter_name="second")
        library.base_model.set_adapter(["first", "second"])
        both = library.eval()(**base.inputs).logits
        for part in library.modules():
            if hasattr(part, "set_scale"):
                part.set_scale("second", 0.25)
        weighted = library(**base.inputs).logits
    model = pm.load(base.folder, adapters=[first, second])
    assert error(model.logits(**base.inputs), both) <= TOLERANCE
    model = pm.load(base.folder, adapters={first: 1.0, second: 0.25})
    assert error(model.logits(**base.inputs), weighted) <= TOLERANCE
    with pytest.raises(ConfigError, match=r"2 adapters are attached.*say which"):
        model.save_adapter(tmp_path / "saved")
    model.save_adapter(tmp_path / "saved", of=second)
    model.detach(second)
    assert error(model.logits(**base.inputs), base.by_peft(first)) <= TOLERANCE
    model.attach(tmp_path / "saved")
    assert error(model.logits(**base.inputs), weighted) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_gradients_reach_the_adapter_alone_and_what_was_learned_is_saved(bases: Any, tmp_path: Path) -> None:
    base = bases["clip"]
    folder = made(base, tmp_path / "a", target_modules=["q_proj", "token_embedding"], r=2, use_dora=True,
                  modules_to_save=["text_projection"])  # fmt: skip
    model = pm.load(base.folder, adapters=[folder])
    model.module.requires_grad_(False)
    learning = [
        p for name, p in model.module.named_parameters() if ".adapters." in name or name.endswith("text.proj.weight")
    ]
    for parameter in learning:
        parameter.requires_grad_(True)
    model(**base.inputs).logits.square().sum().backward()
    assert len(learning) == 3 * 5 + 1 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in learning)
    with torch.no_grad():
        for parameter in learning:
            parameter -= 0.01 * parameter.grad
    expected = model.logits(**base.inputs)
    assert error(base.by_peft(model.save_adapter(tmp_path / "learned")), expected) <= TOLERANCE
    assert error(base.by_peft(folder), expected) > 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "parts"), [("llava", ("backbone", "connectors.image")), ("clip", ("encoders.text",))])
def test_what_was_made_here_is_loaded_by_peft(bases: Any, name: str, parts: Any, tmp_path: Path) -> None:
    base = bases[name]
    model = pm.load(base.folder)
    with pytest.raises(ConfigError, match="no adapter"):
        model.save_adapter(tmp_path / "none")
    apply_lora(model.module, parts, rank=3, alpha=4)
    with torch.no_grad():
        for key, x in lora_state(model.module).items():
            x.copy_(randomise.tensor(key, x.shape))
    expected = model.logits(**base.inputs)
    saved = model.save_adapter(tmp_path / "saved")
    assert error(base.by_peft(saved), expected) <= TOLERANCE
    assert error(pm.load(saved).logits(**base.inputs), expected) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
def test_a_folder_with_an_adapter_alone_loads_its_base(bases: Any, tmp_path: Path, monkeypatch: Any) -> None:
    base, folder = bases["clip"], made(bases["clip"], tmp_path / "adapter", target_modules=["q_proj"], r=2)
    model = pm.load(folder)
    assert model.system.id == "clip" and model.path == base.folder
    assert error(model.logits(**base.inputs), base.by_peft(folder)) <= TOLERANCE
    assert pm.look(folder)[0].id == "clip" and pm.pull(folder) == []

    def named(value: str | None) -> None:
        said = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**said, "base_model_name_or_path": value}))

    named("../" + base.folder.name)
    (tmp_path / base.folder.name).symlink_to(base.folder)
    assert pm.load(folder).system.id == "clip"
    (tmp_path / "evil.py").write_text("raise SystemExit('it was run')")
    for value, kind, match in (
        ("", ConfigError, "names no base model; load yours"),
        ("/models/clip", WeightsError, "'/models/clip' is not on this machine; load your copy"),
        (str(tmp_path / "evil.py"), ConfigError, "Python code"),
        (str(folder), ConfigError, "is an adapter itself"),
        ("owner/never-fetched", WeightsError, "never-fetched.*or load your copy with pm.load"),
        ("no-such-model", UnknownName, "no-such-model.*or load your copy with pm.load"),
    ):
        named(value)
        with pytest.raises(kind, match=match) as told:
            pm.load(folder, offline=True)
        assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore")
def test_repositories_of_the_hub_may_hold_adapters(bases: Any, tmp_path: Path, monkeypatch: Any) -> None:
    base, folder = bases["clip"], made(bases["clip"], tmp_path / "adapter", target_modules=["q_proj"], r=2)
    here = {"lab/base@main": base.folder, "lab/base@v1": base.folder, "lab/adapter@main": folder}

    def fetch(name: str, revision: str, progress: Any = None, offline: bool = False, check: Any = None) -> Path:
        return here[f"{name}@{revision}"]

    def named(value: str, revision: str | None = None) -> None:
        said = json.loads((folder / "adapter_config.json").read_text())
        said |= {"base_model_name_or_path": value, "revision": revision}
        (folder / "adapter_config.json").write_text(json.dumps(said))

    monkeypatch.setattr(hub, "fetch_repository", fetch)
    named("lab/base", "v1")
    expected = base.by_peft(folder)
    for model in (pm.load("lab/adapter"), pm.load("lab/base", adapters=["lab/adapter"])):
        assert model.name == "clip:base" and error(model.logits(**base.inputs), expected) <= TOLERANCE
    assert pm.look("lab/adapter")[0].id == "clip" and pm.pull("lab/adapter") == [folder, base.folder]
    model.detach()
    apply_lora(model.module, ("q_proj",), 2, 2)
    said = json.loads((model.save_adapter(tmp_path / "new") / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == "lab/base"
    named("lab/adapter")
    for call in (pm.load, pm.look, pm.pull):
        with pytest.raises(ConfigError, match="is an adapter itself"):
            call("lab/adapter")


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_told_and_leaves_the_model_as_it_was(bases: Any, tmp_path: Path) -> None:
    llava, clip = bases["llava"], bases["clip"]
    model = pm.load(clip.folder)
    before = state(model)
    folder = made(llava, tmp_path / "llava", target_modules=["q_proj"], r=2)
    with pytest.raises(WeightsError, match=r"the model has no 'model\.\S+q_proj'.*adapter of another model"):
        model.attach(folder)
    fits = made(clip, tmp_path / "clip", target_modules=["q_proj"], r=2, bias="lora_only")

    def edited(edit: Any, name: str) -> Path:
        copy = Path(shutil.copytree(fits, tmp_path / name))
        tensors = load_file(copy / "adapter_model.safetensors")
        edit(tensors)
        save_file(tensors, copy / "adapter_model.safetensors")
        return copy

    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        last = max(key for key in tensors if key.endswith("lora_A.weight"))
        tensors[last] = tensors[last][:, 1:].contiguous()

    def short(tensors: dict[str, torch.Tensor]) -> None:
        last = max(key for key in tensors if key.endswith(".bias"))
        tensors[last] = tensors[last][1:].contiguous()

    for edit, match in ((narrow, r"expected A \[rank, \d+\]"), (short, r"has shape \[\d+\], expected \[\d+\]")):
        with pytest.raises(WeightsError, match=match) as told:
            model.attach(edited(edit, edit.__name__))
        assert "\n" not in str(told.value) and same(before, state(model)) and not model.adapters
    with pytest.raises(ConfigError, match="weight must be 1"):
        model.attach(fits, weight=0.5)
    model.attach(fits)
    with pytest.raises(ConfigError, match="both replace"):
        model.attach(fits)
    with pytest.raises(ConfigError, match=r"merge\(\) or detach\(\)"):
        model.save(tmp_path / "whole")
    with pytest.raises(UnknownName, match=r"no adapter of .* is attached; attached: .*clip"):
        model.detach(folder)
    model.detach(fits)
    assert same(before, state(model))
    for name, match in (("nothing/here/at/all", "no adapter folder"), (str(clip.folder), "holds no adapter")):
        with pytest.raises(PolymodalError, match=match):
            pm.load(clip.folder, adapters=[name])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first_out", [0, 1])
def test_parameters_train_as_before_when_all_are_off(bases: Any, first_out: int, tmp_path: Path) -> None:
    base = bases["clip"]
    folders = [made(base, tmp_path / "a", target_modules=["q_proj"], r=2),
               made(base, tmp_path / "b", target_modules=["q_proj", "fc1"], r=2, bias="lora_only")]  # fmt: skip
    model = pm.load(base.folder)
    part = next(m for name, m in model.module.named_modules() if name.endswith("blocks.0.attn.q_proj"))
    part.weight.requires_grad_(False)
    before = {name: (id(p), p.requires_grad) for name, p in model.module.named_parameters()}
    for folder in folders:
        model.attach(folder)
    assert part.bias.requires_grad and id(part.bias) not in {each for each, _ in before.values()}
    model.detach(folders.pop(first_out))
    assert not part.bias.requires_grad or first_out == 0
    model.detach()
    assert {name: (id(p), p.requires_grad) for name, p in model.module.named_parameters()} == before


@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_is_the_head_is_not_changed_behind_its_back(bases: Any, tmp_path: Path) -> None:
    with quiet() as transformers:
        library = transformers.LlavaForConditionalGeneration(
            llava_1_5.tiny(transformers, {"tie_word_embeddings": True}, {}, tie_word_embeddings=True)
        )
        randomise.fill(library)
        library.save_pretrained(tmp_path / "base")
    inputs = bases["llava"].inputs
    base = Base(folder=tmp_path / "base", kind=type(library), inputs=inputs, logits="logits")
    low = made(base, tmp_path / "low", target_modules=["embed_tokens"], r=2)
    model = pm.load(base.folder, adapters=[low])
    assert error(model.logits(**inputs), base.by_peft(low)) <= TOLERANCE
    with pytest.raises(ConfigError, match="is the head too"):
        model.merge()
    model.detach()
    whole = made(base, tmp_path / "whole", target_modules=["q_proj"], r=2, modules_to_save=["embed_tokens"])
    with pytest.raises(WeightsError, match="tied in this model"):
        model.attach(whole)
    head = made(base, tmp_path / "head", target_modules=["lm_head"], r=2)
    with pytest.raises(WeightsError, match="unused or tied"):
        model.attach(head)


@pytest.mark.filterwarnings("ignore")
def test_half_precision_is_merged_from_float32(bases: Any, tmp_path: Path) -> None:
    base, folder = bases["clip"], made(bases["clip"], tmp_path / "a", target_modules=["q_proj"], r=2)
    exact, model = pm.load(base.folder), pm.load(base.folder, dtype="bfloat16", adapters=[folder])
    assert all(x.dtype == torch.float32 for x in lora_state(model.module, "a").values())
    exact.module.bfloat16().float()
    exact.attach(folder)
    exact.merge()
    model.merge()
    assert all(torch.equal(x.bfloat16(), state(model)[name]) for name, x in state(exact).items())
