"""LLaSM against transformers' Whisper and LLaMA with a linear between them, joined as the official code joins them.

For each recording: WhisperModel with 64 start tokens as its decoder's input (fewer at test size), the decoder's last
hidden states, projected, in place of the recording's run of <au_patch>.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from polymodal.check import library, randomise, real
from polymodal.check.demo import Sample, byte_tokenizer, train_fresh_and_chat
from polymodal.check.evidence.llava import TEXT, linear_names
from polymodal.check.record import Case, Evidence, Expected, HeadlineResult, Shapes, Size, TrainingCheck
from polymodal.check.training import caption_check
from polymodal.data.media import Audio
from polymodal.data.mel import MelConfig, log_mel
from polymodal.systems import Variant
from polymodal.systems.llasm import SYSTEM
from polymodal.systems.llasm.checkpoint import INSIDE, LARGE_V2
from polymodal.weights.build import nothing_drawn

NAMED: dict[str, Any] = {"model_type": "llaaa", "architectures": ["LlaaaLlamaForCausalLM"]}
SPEECH = {"model_type": "whisper", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4,
          "encoder_ffn_dim": 56, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48,
          "num_mel_bins": 16, "max_source_positions": 25, "max_target_positions": 12, "vocab_size": 50,
          "decoder_start_token_id": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
QUERIES = 6


class Composite(nn.Module):
    """Whisper, a linear and a LLaMA of the library."""

    def __init__(self, transformers: Any, text: Mapping[str, Any], speech: Mapping[str, Any]) -> None:
        super().__init__()
        self.start = speech["decoder_start_token_id"]
        self.tower = transformers.WhisperModel(transformers.WhisperConfig(**speech)).eval()
        self.text = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text)).eval()
        self.connector = nn.Linear(speech["d_model"], text["hidden_size"])

    def features(self, heard: Tensor) -> Tensor:
        """[N, mels, frames] -> [N, queries, D]"""
        ids = torch.full((len(heard), QUERIES), self.start)
        return self.connector(library.states(self.tower(heard, decoder_input_ids=ids)))

    def embeds(self, ids: Tensor, heard: Tensor, mark: int) -> Tensor:
        embeds = library.embedded(self.text, ids)
        embeds[ids == mark] = self.features(heard).flatten(0, 1)
        return embeds


def case(name: str, *, inside: bool = False, speech: Mapping[str, Any] | None = None, **text: Any) -> Case:
    """A checkpoint of test size; inside: the tower lies among the other weights, as where a model was saved whole."""
    spoken, read = {**SPEECH, **(speech or {})}, {**TEXT, **text}

    def make(folder: Path) -> Expected:
        with library.quiet() as transformers, torch.no_grad():
            oracle = Composite(transformers, read, spoken)
            randomise.fill(oracle)
            whole = library.names_on_disk(oracle.text)
            whole |= {f"model.mm_projector.{name}": x for name, x in oracle.connector.state_dict().items()}
            if inside:
                whole |= {INSIDE + name: x for name, x in oracle.tower.state_dict().items()}
            library.saved(oracle.tower, folder / "whisper")
            save_file({key: x.contiguous() for key, x in whole.items()}, folder / "model.safetensors")
            config = {**read, **NAMED, "mm_audio_tower": str(folder / "whisper"), "audio_token_len": QUERIES}
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            return _expected(oracle, read["vocab_size"] - 3, spoken)

    return Case(name=name, make=make, needs="transformers")


def _expected(oracle: Composite, mark: int, spoken: Mapping[str, Any]) -> Expected:
    """Two rows padded on the left: one recording between texts; two, the last at the end."""
    words = randomise.ids("words", (24,), 3, 90).tolist()
    said = [mark + 1, *[mark] * QUERIES, mark + 2]
    rows = [words[:5] + said + words[5:9], words[9:12] + said + words[12:19] + said]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    heard = randomise.values("spectrograms", (3, spoken["num_mel_bins"], 2 * spoken["max_source_positions"]))
    prompt = {"inputs_embeds": oracle.embeds(ids, heard, mark), "attention_mask": mask}
    alone = [(row, {"input_ids": ids[row][mask[row].bool()][None], "audio_values": own})
             for row, own in ((0, heard[:1]), (1, heard[1:]))]  # fmt: skip
    return Expected(
        inputs={"input_ids": ids, "attention_mask": mask, "audio_values": heard},
        logits=library.logits(oracle.text, prompt),
        features={"audio": oracle.features(heard)},
        generated=torch.cat((ids, library.greedy(oracle.text, prompt, {})), 1),
        alone=alone,
    )


def size(variant: Variant) -> Size:
    """The library's LLaMA and Whisper large-v2 on the meta device; the encoder's sinusoids are no parameters."""

    @cache
    def shapes() -> Shapes:
        config = dict(variant.config or {})
        with library.quiet() as transformers, nothing_drawn():
            keep = library.settings(transformers.LlamaConfig())
            kept = {name: value for name, value in config.items() if name in keep}
            text = transformers.LlamaForCausalLM(transformers.LlamaConfig(**kept))
            tower = transformers.WhisperModel(transformers.WhisperConfig(**LARGE_V2))
        found = {name: tuple(x.shape) for name, x in text.state_dict().items()}
        found |= {INSIDE + name: tuple(x.shape) for name, x in tower.state_dict().items()}
        return found | linear_names(1280, config["hidden_size"])

    def parameters() -> int:
        fixed = f"{INSIDE}encoder.embed_positions.weight"
        return sum(int(torch.Size(shape).numel()) for name, shape in shapes().items() if name != fixed)

    source = "transformers LlamaForCausalLM and WhisperModel on the meta device, the connector's names as published"
    return Size(variant=variant.name, shapes=shapes, source=source, parameters=parameters, needs="transformers")


def small(vocabulary: int, tower: Path) -> dict[str, Any]:
    """A config.json for training checks and demonstration, and its tower's: 6 tokens for each second of sound."""
    tower.mkdir(parents=True, exist_ok=True)
    (tower / "config.json").write_text(json.dumps({**SPEECH, "max_source_positions": 50}), encoding="utf-8")
    return {**NAMED, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": vocabulary, "mm_audio_tower": str(tower), "audio_token_len": QUERIES}  # fmt: skip


def spoken() -> list[tuple[Tensor, str]]:
    """Seconds of the recorded sentence, and the share of its words that goes with each."""
    samples, words = real.speech(), real.SPOKEN.split()
    count = len(samples) // 16000
    shares = [" ".join(words[i * len(words) // count : (i + 1) * len(words) // count]) for i in range(count)]
    return [(samples[i * 16000 : (i + 1) * 16000], share) for i, share in enumerate(shares)]


def training_check() -> TrainingCheck:
    """A second of real speech beside each name: the sound tells which."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        model = SYSTEM.formats[0].model_spec(small(40, Path(directory))).build()
    heard = log_mel(torch.stack([samples for samples, _ in spoken()]), MelConfig(mels=16, seconds=1.0))

    def sounds(rows: list[int]) -> dict[str, Any]:
        return {"audio_values": heard[[row % len(heard) for row in rows]], "pixel_values": None}

    return caption_check(model, [38, *[37] * QUERIES, 39], side=56, more=sounds)


def headline() -> HeadlineResult:
    """A tiny LLaSM in the official layout hears the seconds of a real recording and is asked about each by `chat`."""
    torch.manual_seed(0)
    samples: list[Sample] = [(Audio((heard.numpy(), 16000)), words) for heard, words in spoken()]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        words = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
        config = small(words + 3, folder / "whisper")
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=400, samples=samples,
                                     generation_config={"eos_token_id": 2})  # fmt: skip
    return HeadlineResult(
        ok=right == len(samples),
        evidence=f"tiny weights trained on the {len(samples)} seconds of a real recording: chat writes the words that "
        f"go with {right} of them (published weights were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers WhisperModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("tower beside the checkpoint"),
        case("tower among the weights, odd widths, one block", inside=True, num_hidden_layers=1, hidden_size=24,
             intermediate_size=54, num_key_value_heads=1,
             speech={"d_model": 36, "encoder_layers": 1, "decoder_layers": 3, "num_mel_bins": 20}),
        case("Baichuan's vocabulary", vocab_size=64003, num_hidden_layers=1),
    ),
    published=tuple(map(size, SYSTEM.variants)),
    training_checks={"align": training_check, "instruct": training_check},
    headline=headline,
    exceptions=("config.json of the releases was not at hand: the vocabulary is that of the official code",),
)  # fmt: skip
