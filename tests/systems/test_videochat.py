"""VideoChat: the prompt of training, frames by the official numbers, options that published files do not have."""

import json

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.check.film import film
from polymodal.check.fixture import read
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.errors import ConfigError
from polymodal.systems import get
from polymodal.systems.videochat.processing import frame_numbers, frames_of

FORMAT = get("videochat").formats[0]


def frames(count):
    """Pictures that are told apart by their grey."""
    return [Pillow.new("RGB", (64, 48), (5 * index, 5 * index, 5 * index)) for index in range(count)]


def test_prompt(tmp_path):
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = json.loads(read("videochat")[0]["config"])
    config["text_config"]["vocab_size"] = size
    config["token_ids"] = {"video": size, "image": size + 1}
    loaded = FORMAT.model_spec(config).assemble(None, CheckpointFiles(tmp_path))
    told = Message(role="assistant", parts=(Text("A cat."),))
    talk = [user(pm.video(film(frames(17))), "What is it?"), told, user(pm.image(frames(1)[0]), "And that?")]
    row = loaded.processor.encode(talk, generate=True)
    tokenizer, shown = loaded.processor.tokenizer, ""
    for index in row.input_ids:
        shown += {size: "V", size + 1: "I"}.get(index) or tokenizer.decode([index], skip_special=False)
    seen = "0.2, 0.8, 1.2, 1.8, 2.2, 2.8, 3.2, 3.8"
    expected = (
        f"<s>###Human: <Video>VVVVV</Video> The video contains 8 frames sampled at {seen} seconds. "
        "###Human: What is it? ###Assistant: A cat. ###Human: <Image>IIIII</Image> ###Human: And that? ###Assistant:"
    )
    assert shown == expected
    assert loaded.stop == ("###",)


@pytest.mark.parametrize("count", [1, 5, 8, 9, 17, 40])
def test_frames(count):
    part = (count - 1) / 8  # as the official sampler has it, in numpy
    wanted = np.array([int(part / 2) + int(np.round(part * index)) for index in range(8)])
    assert frame_numbers(count) == wanted.tolist() and wanted.max() < count
    given = frames_of(pm.video(film(frames(count))), 24)
    greys = (given["frames"][:, 0, 12, 12] * 0.26862954 + 0.48145466) * 255 / 5
    assert greys.round().long().tolist() == wanted.tolist()
    assert given["seconds"].tolist() == pytest.approx((wanted / 4).tolist(), abs=2e-3)


def test_published_pieces(tmp_path):
    """EVA's own file has a convolution without time; the norm comes from the trained file, not from BLIP-2's."""
    about, tensors = read("videochat")
    weights = randomise.state(json.loads(about["shapes"]))

    def under(*names):
        return {name: x for name, x in weights.items() if name.startswith(names)}

    eva = {
        name.removeprefix("visual_encoder."): x for name, x in under("visual_encoder.").items() if "mhra" not in name
    }
    eva["patch_embed.proj.weight"] = eva["patch_embed.proj.weight"].squeeze(2)
    torch.save(eva, tmp_path / "eva_vit_g.pth")
    blip = under("Qformer", "query") | {name: x + 1 for name, x in under("ln_vision").items()}
    torch.save({"model": blip | {"t5_proj.weight": torch.ones(2, 2)}}, tmp_path / "blip2.pth")
    trained = {name: x for name, x in weights.items() if "mhra" in name}
    torch.save({"model": trained | under("ln_vision", "extra", "llama_proj")}, tmp_path / "videochat.pth")
    (tmp_path / "vicuna").mkdir()
    language = {name.removeprefix("llama_model."): x for name, x in under("llama_model.").items()}
    torch.save(language, tmp_path / "vicuna" / "pytorch_model.bin")
    (tmp_path / "vicuna" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "config.json").write_text(about["config"])
    model = pm.load(tmp_path, system="videochat")
    given = {name[3:]: x for name, x in tensors.items() if name.startswith("in.")}
    real = tensors["in.attention_mask"].bool()
    assert (model.logits(**given) - tensors["out.logits"])[real].abs().max() <= 1e-4


def test_other_options_are_refused():
    config = json.loads(read("videochat")[0]["config"])
    for name, value in (("temporal_downsample", True), ("no_lmhra", False)):
        with pytest.raises(ConfigError, match=f"{name} {value} is not supported"):
            FORMAT.model_spec({**config, name: value})
    with pytest.raises(ConfigError, match="expected 1 to 3, one a block, found 4"):
        FORMAT.model_spec({**config, "gmhra_layers": 4})
