"""`Model`: a loaded system as a user meets it.

chat, stream   messages -> processor -> batch -> encoders, connectors -> backbone -> pieces of text -> Reply
draw           the same, and what the answer asks for by the caller's diffusion pipelines -> Reply.media
transcribe, classify, embed    what the system's own functions give, as records
logits         the exact tensors, for research and parity: model.logits(**model.processor(messages))
attach, detach, merge, save_adapter    PEFT adapters (api/adapters.py)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from polymodal.api.adapters import Adapters
from polymodal.api.clock import Clock, TimedProcessor
from polymodal.api.reply import Label, Reply
from polymodal.checkpoints.record import LoadedModel
from polymodal.data.media import Audio, Media, Text, Video
from polymodal.data.messages import Message, conversation, user
from polymodal.data.modalities import holds_media
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.chat import Chat
from polymodal.generation.generate import generate
from polymodal.generation.ids import can_generate, generate_ids
from polymodal.generation.output import DecodingConstraints, Generation, collected
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.models.protocols import HasFeatures, RendersMedia, fills
from polymodal.systems import System, Variant, unknown
from polymodal.train.recipe import train_mode
from polymodal.weights.adapters import own_names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polymodal.weights.keytable import KeyTable


class Model:
    """A loaded system; made by `pm.load`.

    name: "id:variant".  processor: messages -> batch of tensors; None for a published folder without tokenizer files.
    module: the assembly, an `nn.Module`.  place: the published folder it came from.
    """

    def __init__(
        self,
        *,
        system: System,
        variant: Variant,
        parts: LoadedModel,
        load_seconds: float = 0.0,
        path: Path | None = None,
        source: str | None = None,
    ) -> None:
        self.system = system
        self.variant = variant
        self.name = f"{system.id}:{variant.name}"
        self.processor = parts.processor
        self.module = parts.model
        self.load_seconds = load_seconds
        self.path = path
        self._parts = parts
        self._text: Any = None
        self._idle: dict[int, list[Chat]] = {}
        self._version = -1
        base = source or (self.name if path is None else str(path.absolute()))
        self.adapters = Adapters(self.module, self._adapter_keys, base)

    def __repr__(self) -> str:
        return f"Model({self.name})"

    def __call__(self, **tensors: Any) -> Output:
        """`module(**tensors)` on the model's device and in its dtype: gradients flow, a loss comes with labels."""
        return self.module(**self._tensors(tensors))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of `module`."""
        return self.module.parameters()

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Model:
        """Move `module` in place to a device, a dtype, or both; returns the model itself."""
        self.module.to(device=device, dtype=dtype)
        return self

    def train(self, mode: bool = True) -> Model:
        """Training mode, as torch has it; parts of which no parameter learns stay in evaluation mode."""
        train_mode(self.module, mode)
        return self

    def eval(self) -> Model:
        """Evaluation mode."""
        return self.train(False)

    def chat(self, *content: Any, options: SamplingOptions | None = None, **changes: Any) -> Reply:
        """Answer texts and media in order, or one list of (OpenAI-style) messages.

        options and changes: see SamplingOptions; `chat("Why?", max_tokens=50, temperature=0.7)`.
        Raises PromptError, MediaError, UnknownName for an option that does not exist.
        """
        stream = self.stream(*content, options=options, **changes)
        for _ in stream:
            pass
        return stream.reply

    def stream(self, *content: Any, options: SamplingOptions | None = None, **changes: Any) -> Stream:
        """Like `chat`, but an iterator over pieces of text; its `reply` is there when it has ended."""
        self.require("chat")
        chosen = options if options is not None else SamplingOptions(max_tokens=256)
        known = {field.name for field in fields(SamplingOptions)}
        for name in changes:
            if name not in known:
                raise unknown("option", name, known)
        chosen = replace(chosen, **changes)
        if chosen.logprobs is None and chosen.beams == 1:
            chosen = replace(chosen, logprobs=0)
        if not chosen.stop and chosen.beams == 1:
            chosen = replace(chosen, stop=self._parts.stop)
        return Stream(self, messages_of(content), chosen)

    def draw(
        self,
        *content: Any,
        pipelines: Mapping[str, Callable[..., Any]],
        drawing: Mapping[str, Any] | None = None,
        options: SamplingOptions | None = None,
        **changes: Any,
    ) -> Reply:
        """Answer like `chat`, and let diffusion pipelines make what the answer asks for: `reply.media["image"]`.

        pipelines: "image", "video", "audio" -> a pipeline as diffusers has them, called with `prompt_embeds` in place
        of a prompt.  drawing: further arguments of their calls, as num_inference_steps.
        Raises ConfigError for a model that makes no media, or when the answer asks for some without a pipeline.
        """
        self.require("draw")
        messages = list(messages_of(content))
        stream = self.stream(messages, options=options, **changes)
        for _ in stream:
            pass
        batch = self.processor(messages, generate=True)
        written = torch.tensor([stream.ids], dtype=torch.int64)
        known = {"labels", "position_ids", "token_types", "attention_mask"}
        whole = {name: value for name, value in batch.items() if name not in known}
        whole["input_ids"] = torch.cat((batch["input_ids"], written), 1)
        return replace(stream.reply, media=self.module.render(pipelines, drawing, **self._tensors(whole)))

    def transcribe(self, recording: Any) -> Reply:
        """The words of a recording: a path, bytes, (samples, rate) or `pm.audio(...)`."""
        self.require("transcribe")
        assert self._parts.transcribe is not None
        item = recording_of(recording)
        begin = time.perf_counter()
        with torch.inference_mode():
            text = self._parts.transcribe(item)
        seconds = {"load": self.load_seconds, "generate": time.perf_counter() - begin}
        return Reply(text=text, model=self.name, seconds=seconds)

    def classify(self, item: Any, labels: Sequence[str]) -> list[Label]:
        """The labels, likeliest first, with probabilities that sum to 1; item: a path or media."""
        self.require("classify")
        assert self._parts.score is not None
        if isinstance(labels, str) or len(labels) < 2 or len(set(labels)) < len(labels):
            raise ConfigError(f"classify needs two or more different labels; found {labels!r}")
        with torch.inference_mode():
            scores = self._parts.score(media_of(item), labels).tolist()
        found = [Label(label=label, probability=score) for label, score in zip(labels, scores, strict=True)]
        return sorted(found, key=lambda label: -label.probability)

    def embed(self, items: Sequence[Any]) -> Tensor:
        """Paths, media or `pm.text(...)` -> float32 [N, D], rows of length 1: similarity is a dot product."""
        self.require("embed")
        assert self._parts.embed is not None
        if not items or isinstance(items, str | Path):
            raise ConfigError(f"embed needs a list of at least one item, found {items!r}")
        with torch.inference_mode():
            return self._parts.embed([media_of(item) for item in items])

    def logits(self, **tensors: Any) -> Tensor:
        """Logits of a processor's batch, ours or the published one, by the same names: [B, T, V] of a language model,
        [images, texts] of a dual encoder, [N, classes] of a classifier."""
        from polymodal.api.tensors import check_prompt, logits_of, within_tables

        module = self.module_for(holds_media(tensors))
        self.require("logits")
        check_prompt(module, tensors)
        with torch.inference_mode(), within_tables():
            return logits_of(module(**self._tensors(tensors)), self.name)

    def features(self, **tensors: Any) -> dict[str, Any]:
        """By modality, what the encoders (and connectors) make of the tensors: [N, S, D], or a list of [s_i, D] where
        items differ in length; dual encoders give vectors of the joint space [N, E], not of unit length."""
        self.require("features")
        return self.module.features(**self._tensors(tensors))

    def predict(self, **tensors: Any) -> dict[str, Tensor]:
        """What a model with regression heads says of a batch, by name: the score [B] of a sentiment, a distance, ...

        Raises ConfigError for a model without such heads.
        """
        self.require("predict")
        with torch.inference_mode():
            return dict(self.module(**self._tensors(tensors)).predictions)

    def generate(self, *, options: SamplingOptions | None = None, **tensors: Any) -> Tensor:
        """Answers to a batch of tensors as ids [B, T + new], the prompt in front and padding behind, as transformers
        returns them; options may be given under its names too: max_new_tokens, min_new_tokens, max_length, do_sample,
        temperature, top_k, top_p, min_p, repetition_penalty, num_beams, length_penalty, eos_token_id, pad_token_id,
        seed.  What the call leaves open is as the folder's generation_config.json says.

        Rows of unequal length are padded on the left.  Raises ConfigError, PromptError.
        """
        from polymodal.api.tensors import check_prompt, split_options, within_tables

        self.require("generate")
        ends = self._parts.ends if self._parts.ends is not None else ((), None)
        given, chosen, eos, pad = split_options(tensors, options, ends, self._parts.settings)
        check_prompt(self.module, given)
        with torch.inference_mode(), within_tables():
            return generate_ids(self.module, self._tensors(given), chosen, eos, pad)

    def _tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """On the model's device, real numbers in its dtype."""
        one = next(self.module.parameters(), torch.empty(0))  # an agent has none
        return {
            name: value.to(one.device, one.dtype if value.is_floating_point() else None)
            if isinstance(value, torch.Tensor) and name != "item_counts"
            else value
            for name, value in tensors.items()
        }

    def module_for(self, media: bool) -> Any:
        """The assembly that answers: `module`, or the system's own for conversations without media."""
        if media or self._parts.text is None or self.adapters:
            return self.module
        if self._text is None:
            self._text = self._parts.text()
        return self._text

    def attach(self, folder: str | Path, *, weight: float = 1.0) -> None:
        """Attach a PEFT folder (LoRA or DoRA) beside what is attached; weight: of its low-rank part.

        Gradients reach it; the linears that it changes are frozen until it is detached or merged.  Raises WeightsError
        or ConfigError, with the model as it was, for what does not fit or is not supported.
        """
        self.adapters.attach(Path(folder), weight)
        self._weights_changed()

    def detach(self, folder: str | Path | None = None) -> None:
        """Take the adapter of one folder off, or all; the weights are, bit for bit, what they were before."""
        self.adapters.detach(None if folder is None else Path(folder))
        self._weights_changed()

    def merge(self, folder: str | Path | None = None) -> None:
        """Write the adapter of one folder into the weights, or all, rounded once from float32."""
        self.adapters.merge(None if folder is None else Path(folder))
        self._weights_changed()

    def save_adapter(self, folder: str | Path, of: str | Path | None = None) -> Path:
        """Write what is attached, or what `apply_lora` made, as a folder that PEFT and `pm.load` read.

        of: the folder it came from, where several are attached.  Raises ConfigError when there is none to write.
        """
        return self.adapters.save(Path(folder), None if of is None else Path(of))

    def _adapter_keys(self) -> tuple[KeyTable, ...]:
        if self.system.formats and self.variant.config is not None:
            return self.system.model_spec(self.variant).adapter_keys
        return (own_names(self.module),)

    def _weights_changed(self) -> None:
        """Nothing that was computed before is used again."""
        self._idle, self._version = {}, -1

    def save(self, folder: str | Path) -> Path:
        """Write the weights to a folder that `pm.load` reads, with all that a published checkpoint had beside them.

        Raises ConfigError while adapters are attached.
        """
        from polymodal.api import folder as folders

        if self.adapters:
            raise ConfigError(f"{self.name} has adapters; merge() or detach() them, or save_adapter(), before save()")
        record: dict[str, Any] = {"system": self.system.id, "variant": self.variant.name}
        if self.path is not None:
            record |= {"layout": self.system.formats[self.variant.format].name, "config": self.variant.config}
        return folders.save(Path(folder), self.module, record, self.path)

    @contextmanager
    def conversation(self, module: Any) -> Iterator[Chat]:
        """A chat with `module` that nobody else uses now; what it computed serves the next one that begins alike.

        Weights that were changed in place make everything computed before worthless, so it is dropped.
        """
        version = sum(tensor._version for tensor in self.module.parameters())
        if version != self._version:
            self._idle, self._version = {}, version
        idle = self._idle.setdefault(id(module), [])
        chat = idle.pop() if idle else Chat(module, self.processor)
        yield chat
        # Only a chat whose answer came to its end is kept; an abandoned one goes.
        idle.append(chat)

    @property
    def can(self) -> tuple[str, ...]:
        """Which of chat, draw, transcribe, classify, embed, logits, features, predict and generate this model does."""
        parts, module = self._parts, self.module
        found = {
            "chat": self.processor is not None and isinstance(module, MultimodalLM),
            "draw": self.processor is not None and isinstance(module, RendersMedia),
            "transcribe": parts.transcribe is not None,
            "classify": parts.score is not None,
            "embed": parts.embed is not None,
            "logits": fills(module, "logits"),
            "features": isinstance(module, HasFeatures),
            "predict": fills(module, "predictions"),
            "generate": can_generate(module),
        }
        return tuple(verb for verb, here in found.items() if here)

    def require(self, verb: str) -> None:
        """Raises ConfigError, saying what the model can do, unless `verb` is in `can`."""
        if verb not in self.can:
            lack = self._lacks_tokenizer()
            raise ConfigError(
                f"{self.name} cannot {verb}; it takes {', '.join(self.system.inputs)} and does "
                f"{', '.join(self.can)}{f'; its folder has {lack}' if lack else ''}"
            )

    def _lacks_tokenizer(self) -> str | None:
        """What is wrong with the tokenizer of a folder that would do more with one; None where nothing is."""
        from polymodal.api.published import files_at

        lack = None if self.path is None else files_at(self.path).lacks_tokenizer()
        if lack is None:
            return None
        model_spec = self.system.model_spec(self.variant)
        return lack if model_spec.assemble is not None and model_spec.tokenizer else None


class Stream:
    """Pieces of one answer.  Iterate once; then `reply` holds the whole with its costs, and `ids` its tokens."""

    def __init__(self, model: Model, messages: tuple[Message, ...], options: SamplingOptions) -> None:
        self._model = model
        self._messages = messages
        self._options = options
        self._reply: Reply | None = None
        self.ids: tuple[int, ...] = ()

    @property
    def reply(self) -> Reply:
        """The finished answer; raises PromptError before the stream has ended."""
        if self._reply is None:
            raise PromptError("the answer is not finished; iterate over the stream first")
        return self._reply

    def __iter__(self) -> Iterator[str]:
        """Pieces that are not empty, as soon as they are certain."""
        module = self._model.module_for(any(message.media for message in self._messages))
        clock = Clock(module)
        processor: Any = TimedProcessor(self._model.processor, clock)
        if self._options.beams > 1:
            yield from self._searched(module, processor, clock)
            return
        with self._model.conversation(module) as chat, clock.encoding():
            chat.processor = processor
            chat.options = self._options
            pieces = []
            # Everything before the first token is prefill, apart from what the clock files elsewhere.
            written, phase = chat.answer(self._messages), "prefill"
            while (piece := clock.next(phase, written)) is not None:
                pieces.append(piece)
                phase = "generate"
                if piece.text:
                    yield piece.text
            self._finish(collected(pieces, len(processor.row), chat.constraints), processor, clock)

    def _searched(self, module: Any, processor: TimedProcessor, clock: Clock) -> Iterator[str]:
        """Beam search knows its answer only at the end: one piece."""
        row = processor.fit(processor.encode(self._messages, generate=True))
        batch = processor.collate([row], padding="left")
        with clock.measure("generate"), clock.encoding():
            (found,) = generate(module, batch, self._options, DecodingConstraints(tokenizer=processor.tokenizer))
        self._finish(found, processor, clock)
        yield found.text or ""

    def _finish(self, found: Generation, processor: TimedProcessor, clock: Clock) -> None:
        self.ids = found.ids
        self._reply = Reply(
            text=found.text or "",
            model=self._model.name,
            tokens={**processor.row.counts(), "generated": len(found.ids)},
            seconds={"load": self._model.load_seconds, **clock.seconds},
            logprobs=tuple(each.logprob for each in found.logprobs or ()),
            finish=found.finish_reason,
        )


def messages_of(content: Sequence[Any]) -> tuple[Message, ...]:
    """What `chat` was given as messages: one list of messages, or texts and media of one user message.

    Raises PromptError when there is nothing to answer: the last message holds neither words nor media.
    """
    listed = len(content) == 1 and isinstance(content[0], list | tuple)
    messages = conversation(content[0]) if listed else (user(*content),) if content else ()
    if not messages or not (messages[-1].media or messages[-1].text.strip()):
        raise PromptError('chat needs something to answer, as in: model.chat("What is this?", pm.image("a.jpg"))')
    return messages


def recording_of(item: Any) -> Audio:
    """A recording: media, a path, bytes or (samples, rate); of a video its sound.  Raises PromptError."""
    found = item if isinstance(item, Media | Text) else Audio(item)
    if isinstance(found, Video):
        found = found.sound or found
    if not isinstance(found, Audio):
        raise PromptError(f"{found} has no sound to write down; expected a recording")
    return found


def media_of(item: Any) -> Media | Text:
    """Media as it is; a path as the media that the file holds."""
    if isinstance(item, Media | Text):
        return item
    if isinstance(item, str | Path):
        from polymodal.api.media import media

        return media(item)
    raise PromptError(f"expected a path or media such as pm.image(...), found {type(item).__name__}")
