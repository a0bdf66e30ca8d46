"""Whatever the metadata of a GGUF file says: a config that describes its tensors, or one line."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gguf import llava_model, text_model, write_both, write_text

from polymodal import systems
from polymodal.checkpoints.gguf import GGUFCheckpoint
from polymodal.checkpoints.gguf_files import GGUFFiles
from polymodal.checkpoints.record import understood
from polymodal.errors import PolymodalError
from polymodal.weights.read import read_gguf

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.sampled_from((2**40, 2**62)), st.floats(), st.text(max_size=8),
    st.lists(st.integers(-2, 200), max_size=5), st.sampled_from(("none", "linear", "yarn", "llama", "qwen2", "mlp")),
)  # fmt: skip
SETTINGS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    write_both(folder, llava_model())
    return read_gguf(folder / "ggml-model.gguf"), read_gguf(folder / "mmproj-model.gguf")


@SETTINGS
@given(changes=st.data())
def test_any_metadata_is_understood_or_refused(halves, changes):
    """One or two values of a sound pair of files become anything."""
    text, vision = halves
    keys = sorted([f"t{key}" for key in text.metadata] + [f"v{key}" for key in vision.metadata])
    wrong = changes.draw(st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=2))
    changed = []
    for mark, file in (("t", text), ("v", vision)):
        own = {key[1:]: value for key, value in wrong.items() if key[0] == mark}
        kept = {key: value for key, value in {**file.metadata, **own}.items() if value is not None}
        changed.append(replace(file, metadata=kept))
    try:
        model = GGUFCheckpoint(*changed)
        config, tensors = model.config, model.tensors
        (format,) = [each for each in systems.get("llava-1.5").formats if each.matches(config)]
        spec = format.model_spec(config)
        with understood("the config"), torch.device("meta"):
            targets = {name: tuple(x.shape) for name, x in spec.build().state_dict().items()}
        spec.keys[0].apply(tensors, targets)
        GGUFFiles(text.path.parent, model).json("generation_config.json")
    except PolymodalError as problem:
        assert "\n" not in str(problem)


@pytest.mark.parametrize("missing", ["token_embd.weight", "blk.1.attn_norm.weight", "blk.0.attn_q.weight"])
def test_a_tensor_that_is_missing_is_named(tmp_path, missing):
    reference = text_model("llama")
    write_text(tmp_path / "a.gguf", reference.state_dict(), reference.config)
    whole = read_gguf(tmp_path / "a.gguf")
    file = replace(whole, infos={name: info for name, info in whole.infos.items() if name != missing})
    spelled = {"blk.0.attn_q.weight": r"blocks.0.attn.q_proj.weight"}.get(missing, missing)
    model = GGUFCheckpoint(file)
    with pytest.raises(PolymodalError, match=spelled):
        format = systems.get("language-model").formats[1]
        spec = format.model_spec(model.config)
        with torch.device("meta"):
            targets = spec.build().state_dict()
        spec.keys[0].apply(model.tensors, targets)
