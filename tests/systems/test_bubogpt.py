"""BuboGPT: the demo's prompt with what was uploaded, seven views of a sound, the published pieces joined."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.check.fixture import official_weights, read
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Audio, Text
from polymodal.data.messages import Message, user
from polymodal.systems import get
from polymodal.systems.bubogpt.processing import clips_of

PICTURE = pm.image(np.zeros((4, 6, 3), dtype=np.uint8))
SOUND = Audio((np.sin(np.arange(8000) / 9).astype(np.float32), 16_000))


def test_prompt(tmp_path):
    size = byte_tokenizer(tmp_path, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = json.loads(read("bubogpt")[0]["config"])
    config["text_config"]["vocab_size"] = size
    config["token_ids"] = {"image": size, "audio": size + 1}
    loaded = get("bubogpt").formats[0].model_spec(config).assemble(None, CheckpointFiles(tmp_path))
    told = Message(role="assistant", parts=(Text("Yes."),))
    row = loaded.processor.encode([user(PICTURE, SOUND, "Do they fit?"), told, user("Why?")], generate=True)
    names, tokenizer = {size: "V", size + 1: "A"}, loaded.processor.tokenizer
    shown = "".join(names.get(index) or tokenizer.decode([index], skip_special=False) for index in row.input_ids)
    assert shown == (
        "<s>Give the following image: <Vision>ImageContent</Vision> or audio: <Audio>AudioContent</Audio>. You will be "
        "able to see the image/audio once I provide it to you. Please answer my questions."
        "###Human: <Vision>VVV</Vision>###Human: <Audio>AAA</Audio> Do they fit?###Assistant: Yes."
        "###Human: Why?###Assistant:"
    )


def official_clips(samples):
    """What the official code does to a sound, with its kernels of torch: clips in place, columns squeezed."""
    from polymodal.data.kaldi import fbank

    waves = samples.clone()[None]
    if 5 / (waves.shape[1] / 16_000) >= 1:
        waves = torch.tile(waves, dims=[1, int(5 / (waves.shape[1] / 16_000)) + 1])[:, :80_000]
    room = max(waves.shape[1] / 16_000 - 5, 0)
    clips = []
    for index in range(6):
        start = room / 5 * index
        clips.append(waves[:, int(start * 16_000) : int((start + 5) * 16_000)])
    clips.append(waves)
    made = []
    for clip in clips:
        clip -= clip.mean()
        banks = fbank(clip[0]).T[None]
        squeezed = torch.nn.functional.interpolate(banks[None], size=[128, 204], mode="bilinear", align_corners=False)
        made.append((squeezed[0] + 4.268) / 9.138)
    return torch.stack(made)


@pytest.mark.parametrize("seconds", [0.7, 5.0, 5.5, 12.3])
def test_sounds(seconds):
    samples = randomise.values("sound", (round(seconds * 16_000),)) * 0.1 + 0.02
    found, wanted = clips_of(samples), official_clips(samples)
    assert found.shape == (7, 1, 128, 204)
    assert (found - wanted).abs().max() < 1e-4


def test_published_pieces(tmp_path):
    """ImageBind's file, EVA's, BLIP-2's with its own linear, BuboGPT's own parts, Vicuna in a folder."""
    about, tensors = read("bubogpt")
    weights = official_weights(about)
    encoder, joiner = "multimodal_encoder.", "multimodal_joiner.modality_"

    def under(prefix, cut=""):
        return {name.removeprefix(cut): x for name, x in weights.items() if name.startswith(prefix)}

    trunk = f"{encoder}modality_trunks.vision."
    torch.save(under(trunk, trunk) | {"head.bias": torch.ones(3)}, tmp_path / "eva_vit_g.pth")
    bound = under(encoder, encoder)
    bound = {name: x for name, x in bound.items() if ".vision." not in name}
    torch.save(bound | {"modality_trunks.vision.blocks.0.norm_1.weight": torch.ones(4),
                        "modality_trunks.text.blocks.0.norm_1.weight": torch.ones(4)},
               tmp_path / "imagebind_huge.pth")  # fmt: skip
    asked = f"{joiner}qformers.vision."
    norm = {
        f"ln_vision.{leaf}": weights[f"{encoder}modality_postprocessors.vision.{leaf}"] for leaf in ("weight", "bias")
    }
    blip = (
        under(asked, asked) | norm | {"t5_proj.weight": torch.ones(2, 2), "Qformer.cls.predictions.bias": torch.ones(2)}
    )
    torch.save({"model": blip}, tmp_path / "blip2.pth")
    own = under(f"{joiner}qformers.audio") | under(f"{joiner}post_projectors")
    torch.save({"model": own}, tmp_path / "bubogpt_7b.pth")
    (tmp_path / "vicuna").mkdir()
    torch.save(under("llama_model.", "llama_model."), tmp_path / "vicuna" / "pytorch_model.bin")
    (tmp_path / "vicuna" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "config.json").write_text(about["config"])
    model = pm.load(tmp_path, system="bubogpt")
    given = {name[3:]: x for name, x in tensors.items() if name.startswith("in.")}
    given |= {name: randomise.values(name, shape) for name, shape in json.loads(about["made"]).items()}
    real = tensors["in.attention_mask"].bool()
    assert (model.logits(**given) - tensors["out.logits"])[real].abs().max() <= 1e-4
