"""The whole network against transformers and against a forward written for the published layout; absolute 1e-4."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.models.speech_seq2seq import HF_KEYS, OPENAI_KEYS, WHISPER, SpeechSeq2SeqConfig
from whisper_tiny import config, model, tokenizer

TOLERANCE = 1e-4


def published_names(depth: int = 2) -> list[str]:
    """Names in a published .pt file, typed from the listing of tiny.en."""
    attention = ["query.weight", "query.bias", "key.weight", "value.weight", "value.bias", "out.weight", "out.bias"]
    sides = {"encoder": ["attn"], "decoder": ["attn", "cross_attn"]}
    names = ["decoder.positional_embedding", "decoder.token_embedding.weight", "encoder.positional_embedding"]
    for part in ("decoder.ln", "encoder.conv1", "encoder.conv2", "encoder.ln_post"):
        names += [f"{part}.weight", f"{part}.bias"]
    for side, kinds in sides.items():
        for block in (f"{side}.blocks.{index}" for index in range(depth)):
            names += [f"{block}.{kind}.{leaf}" for kind in kinds for leaf in attention]
            parts = ["mlp.0", "mlp.2", "mlp_ln", *(f"{kind}_ln" for kind in kinds)]
            names += [f"{block}.{part}.{leaf}" for part in parts for leaf in ("weight", "bias")]
    return names


class Published:
    """Whisper's forward pass in plain functions over the published names, without any of our parts."""

    def __init__(self, weights: dict[str, Tensor], heads: int) -> None:
        self.w, self.heads = weights, heads

    def affine(self, x: Tensor, name: str) -> Tensor:
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, x: Tensor, source: Tensor, name: str, causal: bool) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        q, k, v = (
            split(self.affine(y, f"{name}.{part}")) for y, part in ((x, "query"), (source, "key"), (source, "value"))
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf).triu(1)
        return self.affine((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.out")

    def block(self, x: Tensor, name: str, audio: Tensor | None) -> Tensor:
        y = self.norm(x, f"{name}.attn_ln")
        x = x + self.attention(y, y, f"{name}.attn", audio is not None)
        if audio is not None:
            x = x + self.attention(self.norm(x, f"{name}.cross_attn_ln"), audio, f"{name}.cross_attn", False)
        return x + self.affine(F.gelu(self.affine(self.norm(x, f"{name}.mlp_ln"), f"{name}.mlp.0")), f"{name}.mlp.2")

    def logits(self, mel: Tensor, ids: Tensor) -> Tensor:
        w = self.w
        x = F.gelu(F.conv1d(mel, w["encoder.conv1.weight"], w["encoder.conv1.bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["encoder.conv2.weight"], w["encoder.conv2.bias"], padding=1, stride=2))
        x = x.transpose(1, 2) + w["encoder.positional_embedding"]
        for index in range(2):
            x = self.block(x, f"encoder.blocks.{index}", None)
        audio = self.norm(x, "encoder.ln_post")
        y = w["decoder.token_embedding.weight"][ids] + w["decoder.positional_embedding"][: ids.shape[1]]
        for index in range(2):
            y = self.block(y, f"decoder.blocks.{index}", audio)
        return self.norm(y, "decoder.ln") @ w["decoder.token_embedding.weight"].T


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 80, 40), torch.randint(0, 280, (2, 9))


@torch.no_grad()
def test_published_layout_computes_the_same() -> None:
    ours = model(frames=40)
    ours.audio.positions.copy_(torch.randn(ours.audio.positions.shape))
    published = dict(OPENAI_KEYS.inverse().apply(ours.state_dict()))
    assert sorted(published) == sorted(published_names())
    fresh = config(frames=40).build().eval()
    fresh.load_state_dict(dict(OPENAI_KEYS.apply(published, fresh)))
    mel, ids = inputs()
    found, expected = fresh(mel, ids).logits, Published(published, heads=2).logits(mel, ids)
    assert expected.abs().max() > 1
    assert (found - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_equals_transformers_with_its_saved_names(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    sizes = config(frames=40)
    settings = transformers.WhisperConfig(
        vocab_size=sizes.decoder.vocab_size, d_model=16, encoder_layers=2, decoder_layers=2, num_mel_bins=80,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=20, max_target_positions=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    theirs = transformers.WhisperForConditionalGeneration(settings).eval()
    for value in theirs.parameters():
        value.copy_(torch.randn(value.shape) * 0.2)
    theirs.save_pretrained(tmp_path)
    ours = sizes.build().eval()
    ours.load_state_dict(dict(HF_KEYS.apply(load_file(tmp_path / "model.safetensors"), ours)))
    ours.load_state_dict(dict(HF_KEYS.apply(theirs.state_dict(), ours)))  # with the tied output matrix named
    mel, ids = inputs()
    assert (ours(mel, ids).logits - theirs(mel, decoder_input_ids=ids).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "multilingual", "languages", "mels", "parameters"),
    [
        ("tiny.en", False, 99, 80, 37_184_256),
        ("tiny", True, 99, 80, 37_184_640),
        ("base", True, 99, 80, 71_825_920),
        ("large-v2", True, 99, 80, 1_541_384_960),
        ("large-v3", True, 100, 128, 1_541_570_560),
        ("turbo", True, 100, 128, 806_958_080),
    ],
)
def test_sizes(name: str, multilingual: bool, languages: int, mels: int, parameters: int) -> None:
    size = WHISPER[name]
    with torch.device("meta"):
        built = size.build()
    assert (size.multilingual, size.languages, size.mel.mels) == (multilingual, languages, mels)
    assert sum(value.numel() for value in built.parameters()) == parameters


def test_widths_must_meet() -> None:
    sizes = config()
    with pytest.raises(ConfigError, match="width 16, the encoder has width 24"):
        replace(sizes, encoder=replace(sizes.encoder, width=24))


def test_the_vocabulary_must_be_the_right_one(tmp_path: Path) -> None:
    import base64

    path = tmp_path / "words.tiktoken"
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in tokenizer().ranks.items()]
    path.write_text("\n".join(lines))
    assert config().read_tokenizer(path).vocab_size == config().decoder.vocab_size
    wrong: SpeechSeq2SeqConfig = WHISPER["tiny"]
    with pytest.raises(ConfigError, match=r"multilingual\.tiktoken"):
        wrong.read_tokenizer(path)
