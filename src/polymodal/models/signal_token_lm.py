"""Language models that ask for media with signal tokens: NExT-GPT, GILL, MiniGPT-5.

    ... answer [IMG0] .. [IMGn] -> states at (or one before) the signal, its embeddings -> projectors.image [k, Q, E]
        -> a diffusion model, in place of what its text encoder says            (`conditions`, `render`)
    states at the signal -> retrieval.text -> a vector to find pictures by      (GILL; `Output.predictions`)

Traps: a condition needs the hidden states of the full sequence, after the final norm; an incomplete signal gives no
condition; where signals are forced, the first token is always followed by the rest, which stands nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.connectors.joint_heads import JointHeads
from polymodal.errors import ConfigError
from polymodal.generators.diffusion import SETTINGS, DiffusionSettings, Pipeline, run_pipeline
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.models.output import Output


@dataclass(frozen=True, kw_only=True)
class SignalTokens:
    """ids: modality -> its signal token ids, in order.

    shift: how far before the signal the states of a condition begin.  forced: answers keep a `SignalRule`; alone: its.
    guided: pipelines are steered away from what the projector makes of zeros.  settings: of the pipelines.  columns:
    without position ids, a full forward counts columns (`MultimodalLM.positions_ignore_padding`).
    """

    ids: Mapping[str, tuple[int, ...]]
    shift: int = 0
    forced: bool = False
    alone: bool = False
    guided: bool = False
    settings: Mapping[str, DiffusionSettings] = field(default_factory=lambda: SETTINGS)
    columns: bool = True


class SignalRule:
    """What may come next where signals are whole: behind the beginning of one its next token, else any id.

    alone: later tokens of a signal may also be written by themselves.
    """

    def __init__(self, signals: Mapping[str, Sequence[int]], vocab_size: int, alone: bool) -> None:
        self._begun = [
            (tuple(ids[:length]), torch.tensor([ids[length]], device="cpu"))
            for ids in signals.values() for length in range(1, len(ids))
        ]  # fmt: skip
        free = torch.ones(vocab_size, dtype=torch.bool, device="cpu")
        for ids in signals.values():
            free[list(ids[1:])] = False
        self._free = None if alone else free.nonzero().flatten()

    def __call__(self, written: Sequence[int]) -> Tensor | None:
        """Ids that may follow, None for all; one tensor for equal cases."""
        for begun, there in self._begun:
            if tuple(written[-len(begun) :]) == begun:
                return there
        return self._free


class SignalTokenLM(MultimodalLM):
    """projectors by modality: (states [k, n, D], embeddings [k, n, D]) -> conditions [k, Q, E].

    generators by modality: what sees noise, (noisy, timesteps, conditions) -> noise, where it is a part of the model.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        inputs: Mapping[str, ModalityInputs],
        projectors: Mapping[str, nn.Module],
        signals: SignalTokens,
        retrieval: JointHeads | None = None,
    ) -> None:
        super().__init__(
            encoders, connectors, backbone, placeholders, inputs=inputs, positions_ignore_padding=signals.columns
        )
        if set(projectors) != set(signals.ids):
            names = sorted(signals.ids)
            raise ConfigError(f"projectors {sorted(projectors)} and signals {names} must have the same names")
        self.projectors = nn.ModuleDict(projectors)
        self.signals = {name: tuple(ids) for name, ids in signals.ids.items()}
        self.tokens = signals
        self.generators = nn.ModuleDict()
        self.retrieval = retrieval
        self.answer_rule = (
            SignalRule(self.signals, backbone.config.vocab_size, signals.alone) if signals.forced else None
        )

    @property
    def output_fields(self) -> frozenset[str]:  # type: ignore[override]
        """`predictions` of a model that finds pictures too."""
        return MultimodalLM.output_fields | (frozenset({"predictions"}) if self.retrieval is not None else frozenset())

    def forward(self, **batch: Any) -> Output:
        """As in MultimodalLM.  predictions, of the pictures' signals: `retrieval` [k, E], rows of length 1, and
        `decision` [k, 2], logits of drawing and of finding."""
        output = super().forward(**batch)
        if self.retrieval is None or output.hidden is None:
            return output
        states = self.states_at(output.hidden, batch["input_ids"], "image")
        return output if states is None else output._replace(predictions=self.retrieval.predictions(states))

    def similarities(self, pixel_values: Tensor, found: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] against vectors of signals [k, E] -> cosines times the learned factor [N, k]."""
        assert self.retrieval is not None
        pictures = self.retrieval.pictures(self.encoders["image"](pixel_values))
        return self.retrieval.logit_scale.exp() * pictures @ found.T

    def states_at(self, hidden: Tensor, ids: Tensor, name: str) -> Tensor | None:
        """States [k, n, D] of the k complete signals of one modality in ids [B, T], row by row; None for none."""
        signal = torch.tensor(self.signals[name], device=ids.device)
        if ids.shape[1] < len(signal):
            return None
        rows, starts = (ids.unfold(1, len(signal), 1) == signal).all(-1).nonzero(as_tuple=True)
        if not len(rows):
            return None
        positions = starts[:, None] - self.tokens.shift + torch.arange(len(signal), device=ids.device)
        return hidden[rows[:, None], positions.clamp(min=0)]

    def conditions(self, **batch: Any) -> dict[str, Tensor]:
        """By modality, `[k, Q, E]` for the k complete signals in the ids of a batch, row by row; absent if k is 0.

        The batch contains prompt and answer, as `generate` returns them.
        """
        return self.conditions_at(self(return_logits=False, **batch).hidden, batch["input_ids"])

    def conditions_at(self, hidden: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """`conditions` from the hidden states [B, T, D] of a full forward over ids [B, T]."""
        conditions = {}
        for name in self.signals:
            states = self.states_at(hidden, ids, name)
            if states is not None:
                conditions[name] = self.projected(name, states)
        return conditions

    def projected(self, name: str, states: Tensor) -> Tensor:
        """Conditions of states [k, n, D] of one modality's signals."""
        signal = torch.tensor(self.signals[name], device=states.device)
        condition: Tensor = self.projectors[name](states, self.backbone.embed(signal.expand(len(states), -1)))
        return condition

    def signalled(self, ids: Sequence[int], name: str) -> list[int]:
        """An answer's ids with a whole signal of a modality in them: at its end where there is none, in place of what
        was cut there."""
        signal, ids = self.signals[name], list(ids)
        if any(tuple(ids[start : start + len(signal)]) == signal for start in range(len(ids))):
            return ids
        while ids and ids[-1] in signal:
            ids.pop()
        return [*ids, *signal]

    @torch.inference_mode()
    def render(
        self,
        pipelines: Mapping[str, Pipeline],
        changes: Mapping[str, Any] | None = None,
        **batch: Any,
    ) -> dict[str, list[Any]]:
        """By modality, the outputs of the caller's pipelines for every signal of a batch.

        changes: arguments that override the settings of all pipelines.  Raises ConfigError if a pipeline is missing.
        """
        outputs: dict[str, list[Any]] = {}
        for name, conditions in self.conditions(**batch).items():
            if name not in pipelines:
                raise ConfigError(f"the answer asks for {name}; pass a pipeline for it (found {sorted(pipelines)})")
            given = dict(changes or {})
            if self.tokens.guided:
                zeros = conditions.new_zeros(1, len(self.signals[name]), self.backbone.config.width)
                given = {"negative_prompt_embeds": self.projected(name, zeros), **given}
            settings = self.tokens.settings[name]
            outputs[name] = [run_pipeline(pipelines[name], x, settings, **given) for x in conditions]
        return outputs
