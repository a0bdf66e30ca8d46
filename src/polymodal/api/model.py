"""`Model`: a loaded system as a user meets it.

chat, stream   messages -> processor -> batch -> encoders, connectors -> backbone -> pieces of text -> Reply
chat_batch     the same for many conversations at once
draw           pictures that the model writes, or what its answer asks for by diffusion pipelines -> Reply.media
speak, say      sound of a model that speaks itself (api/speaking.py)
transcribe, transcribe_stream, classify, embed, answer, episode    what the system's own functions give, as records
logits         the exact tensors, for research and parity: model.logits(**model.processor(messages))
attach, detach, merge, save_adapter    PEFT adapters (api/adapters.py)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from polymodal.agents.module import AgentModule
from polymodal.api import comparing
from polymodal.api.acting import Episode
from polymodal.api.adapters import Adapters
from polymodal.api.asking import Stream, answer_batch, messages_of
from polymodal.api.chat_format import format_of
from polymodal.api.composing import compose, composes, makes
from polymodal.api.drawing import Canvas, paint, render, render_through
from polymodal.api.inputs import check_media
from polymodal.api.media import media_of, recording_of
from polymodal.api.paths import as_path
from polymodal.api.question_answering import answer, can_answer
from polymodal.api.reply import Label, Reply
from polymodal.api.sampling import chosen_options
from polymodal.api.speaking import say, speak, spoken
from polymodal.api.tensors import answering, check_no_loss, check_prompt, left_padded, logits_of, require_finite
from polymodal.api.transcribing import TranscriptStream, as_one_window
from polymodal.api.turning import turn
from polymodal.checkpoints.record import LoadedModel
from polymodal.data.media import Media, Text
from polymodal.data.modalities import holds_media
from polymodal.engine.client import Client
from polymodal.engine.engine import Engine
from polymodal.engine.prefix_cache import IdleLimits
from polymodal.engine.request import EngineLimits
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.decode_state import cast_batch
from polymodal.generation.ids import can_generate, generate_ids
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.output import Output
from polymodal.models.protocols import HasFeatures, RendersAnswers, RendersMedia, fills
from polymodal.models.recording import recording
from polymodal.nn.first_weight import first_weight
from polymodal.pipelines.batches import BATCH
from polymodal.pipelines.composing import Composes
from polymodal.pipelines.guided_diffusion import OwnPipelines
from polymodal.systems import System, Variant
from polymodal.train.parameters import train_mode
from polymodal.weights.adapters import own_names
from polymodal.weights.load import expected_shapes
from polymodal.weights.placement import AUTO, placement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from polymodal.api.generation_options import Published
    from polymodal.pipelines.grounding import Grounding
    from polymodal.weights.keytable import KeyTable


# Threads ask as many questions as they like, and a batch is as large as its caller says.
UNLIMITED = EngineLimits(rows=2**20, queue=2**20, mixed_chunk=512, cache_bytes=2**60)


class Model:
    """A loaded system; made by `pm.load`.

    name: "id:variant".  processor: messages -> batch of tensors; None for a published folder without tokenizer files.
    module: the assembly, an `nn.Module`.  path: the published folder it came from; code: the user's system file.
    loaded: names and shapes of its parameters and buffers as they were loaded.

    Memory between calls: conversations that have ended keep their keys and values for their next turn, together at
    most `limits` (8 conversations and 2 GiB, unless you set another `IdleLimits`), media features and prepared media
    256 MiB each, class vectors of `classify` 64 MiB.  Changed weights drop all of it; so does `clear_caches`.
    Several threads may ask one model at once; its weights must not change meanwhile.
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
        code: Path | None = None,
    ) -> None:
        self.system = system
        self.variant = variant
        self.name = f"{system.id}:{variant.name}"
        self.processor = parts.processor
        self.module = parts.model
        self.load_seconds = load_seconds
        self.path = path
        self.code = code
        self.loaded = expected_shapes(parts.model)
        self._parts = parts
        self.limits = IdleLimits()
        self._text: Any = None
        self._lock = threading.Lock()
        self._clients: dict[int, Client] = {}
        base = source or (self.name if path is None else str(path.absolute()))
        self.adapters = Adapters(self.module, self._adapter_keys, base)

    def __repr__(self) -> str:
        return f"Model({self.name}, chat format: {self.chat_format})" if self.chat_format else f"Model({self.name})"

    @property
    def chat_format(self) -> str:
        """Where the format of conversations is from: a file of the folder, as "chat_template.jinja", or the system;
        "" for a model that holds none."""
        return format_of(self.system, self._parts)

    def __reduce__(self) -> Any:
        raise ConfigError(f"{self.name} cannot be pickled or copied; call pm.load in each process, or save() it first")

    def __call__(
        self, *, output_hidden_states: bool = False, output_attentions: bool = False, **tensors: Any
    ) -> Output:
        """`module(**tensors)` on the model's device and in its dtype: gradients flow, a loss comes with labels.

        output_hidden_states, output_attentions: fill `hidden_states` and `attentions` of the output, of a decoder.
        """
        if not (output_hidden_states or output_attentions):
            return self.module(**self._tensors(tensors))
        with recording(self.module, output_hidden_states, output_attentions) as recorded:
            output = self.module(**self._tensors(tensors))
        return recorded.in_output(output)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of `module`."""
        return self.module.parameters()

    def to(self, device: Any = None, dtype: str | torch.dtype | None = None) -> Model:
        """Move `module` in place to a device, a dtype (as in `pm.load`), or both; returns the model itself.

        Raises ConfigError for a device that is not there and for another dtype.
        """
        where = placement(AUTO if device is None else device, AUTO if dtype is None else dtype)
        self.module.to(device=where.device, dtype=where.dtype)
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

        Media are `pm.image(...)` and the like, a pathlib.Path, a PIL image, uint8 pixels or (samples, rate).

        options and changes: see SamplingOptions; `chat("Why?", max_tokens=50, temperature=0.7)`.  An answer that goes
        round in a circle is cut (`finish_reason` "repetition") unless stop_loops=0 or options are given.  Several
        conversations at once are for `chat_batch`.
        Raises PromptError, MediaError, UnknownName for an option that does not exist.
        """
        stream = self.stream(*content, options=options, **changes)
        for _ in stream:
            pass
        return stream.reply

    def stream(self, *content: Any, options: SamplingOptions | None = None, **changes: Any) -> Stream:
        """Like `chat`, but an iterator over pieces of text; its `reply` is there when it has ended."""
        self.require("chat")
        return Stream(self, messages_of(content), self.sampling_options(options, changes))

    def chat_batch(
        self,
        conversations: Sequence[Any],
        *,
        options: SamplingOptions | Sequence[SamplingOptions] | None = None,
        batch_size: int = 8,
        **changes: Any,
    ) -> list[Reply]:
        """Answer many conversations, `batch_size` at a time, each as `chat` answers it alone.

        conversations: of each what `chat` takes: a text, one item of media, a tuple or list of texts and media, or a
        list of messages.  options: one for all, or one for each.  A picture that several ask about is encoded once.
        `seconds` of a reply are those of the batch it was in.
        Raises as `chat` does, naming the conversation, before anything is answered in its batch.
        """
        self.require("chat")
        if isinstance(conversations, str) or not isinstance(conversations, Sequence):
            raise PromptError(f"chat_batch: expected a list of conversations, found {type(conversations).__name__}")
        each = options if isinstance(options, Sequence) else [options] * len(conversations)
        if len(each) != len(conversations):
            raise ConfigError(f"chat_batch: {len(each)} options for {len(conversations)} conversations")
        return answer_batch(
            self, conversations, [self.sampling_options(option, changes) for option in each], batch_size
        )

    def sampling_options(self, options: SamplingOptions | None, changes: Mapping[str, Any]) -> SamplingOptions:
        """What an answer is written with: the options given, or the system's own, with changes.  Raises UnknownName."""
        return chosen_options(self._parts, options, changes)

    def draw(
        self,
        *content: Any,
        pipelines: Mapping[str, Callable[..., Any]] | None = None,
        drawing: Mapping[str, Any] | None = None,
        size: tuple[int, int] | None = None,
        n: int | None = None,
        steps: int | None = None,
        step: Callable[[int, int], None] | None = None,
        options: SamplingOptions | None = None,
        **changes: Any,
    ) -> Reply:
        """Pictures: `draw("a cat", n=2, seed=1).media["image"]` holds PIL images, of a model that writes them itself.

        size: (width, height) in pixels, by default the model's usual one.  n: how many, each with a seed of its own.
        steps: of diffusion.  step(ids or steps done, in all) is told where the work is.
        A model whose answers ask for media answers like `chat`; what it asks for is drawn by the diffusion model in its
        folder, or by pipelines: "image", "video", "audio" -> a pipeline as diffusers has them, called with
        `prompt_embeds` in place of a prompt.  drawing: further arguments of their calls, as num_inference_steps.
        A model that `composes` makes a picture here; `compose` makes the rest, whose arguments drawing may hold.
        Raises ConfigError for a model that makes no media, or when an answer asks for some without a pipeline.
        """
        self.require("draw")
        chosen, canvas = self.sampling_options(options, changes), Canvas.of(size=size, n=n, steps=steps, step=step)
        painter = self._parts.paint
        if isinstance(painter, Composes):
            more = {"make": "image", **(drawing or {})}
            return compose(self, *content, size=size, n=n, steps=steps, step=step, seed=chosen.seed, **more)
        if isinstance(painter, OwnPipelines) and pipelines is None:
            return render(self, content, chosen, canvas, painter, drawing)
        if painter is not None and not isinstance(painter, OwnPipelines):
            return paint(self, painter, content, canvas, chosen.seed)
        return render_through(self, content, chosen, canvas, pipelines, drawing)

    answer, speak, spoken, say = answer, speak, spoken, say
    compose = compose
    composes, makes = property(composes), property(makes)

    @property
    def paints(self) -> bool:
        """Whether `draw` needs no pipelines: the model writes its pictures itself, or its folder has what draws."""
        return self._parts.paint is not None

    def ground(self, answer: str, *pictures: Any) -> Grounding:
        """An answer about pictures in plain words, and where in them the things are that it is about: `.things`.

        answer: what `chat` gave; pictures: those of its conversation, in order: paths or media.  Raises ConfigError for
        a model that gives no boxes, PromptError for pictures that it cannot give them for.
        """
        self.require("ground")
        ground = self._parts.ground
        assert ground is not None
        return ground(answer, [media_of(picture) for picture in pictures])

    @property
    def next_turn(self) -> Callable[..., Any] | None:
        """(messages, answer) -> the user message that an answer asks for; None where none is asked for."""
        return self._parts.next_turn

    def transcribe(self, recording: Any) -> Reply:
        """The words of a recording: a path, bytes, (samples, rate) or `pm.audio(...)`; `reply.segments` has times."""
        stream = self.transcribe_stream(recording)
        for _ in stream:
            pass
        return stream.reply

    def transcribe_stream(self, recording: Any) -> TranscriptStream:
        """Like `transcribe`, but an iterator over segments (`start` and `end` in seconds, `text`), each there as soon
        as it is heard; memory does not grow with the length of the recording."""
        self.require("transcribe")
        item, parts = recording_of(recording), self._parts
        if parts.transcribe_windows is not None:
            return TranscriptStream(self, item, parts.transcribe_windows(item))
        assert parts.transcribe is not None
        return TranscriptStream(self, item, as_one_window(parts.transcribe, item))

    @overload
    def classify(
        self, items: list[Any] | tuple[Any, ...], labels: Sequence[str], *, batch_size: int = BATCH
    ) -> list[list[Label]]: ...

    @overload
    def classify(self, items: Any, labels: Sequence[str], *, batch_size: int = BATCH) -> list[Label]: ...

    def classify(self, items: Any, labels: Sequence[str], *, batch_size: int = BATCH) -> Any:
        """The labels, likeliest first, with probabilities that sum to 1; items: a path, media, a PIL image, pixels.

        A list of items gives a list of such results, `batch_size` items at a time.
        """
        self.require("classify")
        assert self._parts.score is not None
        return comparing.classify(self, self._parts.score, items, labels, batch_size)

    def embed(self, items: Sequence[Any], *, batch_size: int = BATCH) -> Tensor:
        """Paths, media, PIL images, pixels or `pm.text(...)` -> float32 [N, D], rows of length 1.

        Similarity is a dot product.  Items of one kind go through their encoder `batch_size` at a time.
        """
        self.require("embed")
        assert self._parts.embed is not None
        return comparing.embed(self, self._parts.embed, items, batch_size)

    def logits(self, **tensors: Any) -> Tensor:
        """Logits of a processor's batch, ours or the published one, by the same names: [B, T, V] of a language model,
        [images, texts] of a dual encoder, [N, classes] of a classifier.

        Labels of a `processor(messages)` batch are not read; others are refused: their loss is `model(**batch).loss`.
        """
        module = self.module_for(holds_media(tensors))
        self.require("logits")
        check_no_loss(module, tensors, "logits")
        check_prompt(module, tensors)
        with torch.inference_mode(), answering(self):
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
        with torch.inference_mode(), answering(self):
            found = dict(self.module(**self._tensors(tensors)).predictions)
            return {name: require_finite(value, f"predictions of {name}") for name, value in found.items()}

    def episode(self, instruction: str) -> Episode:
        """A robot's task, to be acted on step by step: `episode.step(static, gripper)` -> RobotAction."""
        self.require("act")
        return Episode(self, self._parts, instruction)

    turn = turn

    def generate(self, *, options: SamplingOptions | None = None, **tensors: Any) -> Tensor:
        """Answers to a batch of tensors as ids [B, T + new], the prompt in front and padding behind, as transformers
        returns them; options may be given under its names too (api/generation_options.py lists them): max_new_tokens,
        do_sample, temperature, num_beams, num_return_sequences, stop_strings, ..., and `seed`.  What the call leaves
        open is as the folder's generation_config.json says.  An option that is not supported is refused by name.

        Rows of unequal length are padded on the left, or given as lists: `input_ids=[[1, 2, 3], [4]]`.
        Raises ConfigError, PromptError.
        """
        from polymodal.api.generation_options import split_options

        self.require("generate")
        published = self._published()
        rows = left_padded(tensors, tensors.get("pad_token_id", published.ends[1]))
        check_no_loss(self.module, tensors, "generate")
        given, request = split_options(rows, options, published)
        check_prompt(self.module, given)
        with torch.inference_mode(), answering(self):
            return generate_ids(self.module, self._tensors(given), request)

    def _published(self) -> Published:
        """What the folder's files say about generation."""
        from polymodal.api.generation_options import Published

        parts, config = self._parts, self.variant.config or {}
        return Published(
            ends=((), None) if parts.ends is None else parts.ends,
            settings=parts.settings,
            longest=config.get("max_position_embeddings"),
            tokenizer=None if self.processor is None else self.processor.tokenizer,
        )

    def _tensors(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """On the model's device, floating-point ones in its dtype."""
        return cast_batch(tensors, first_weight(self.module))

    def module_for(self, media: bool) -> Any:
        """The assembly that answers: `module`, or the system's own for conversations without media."""
        if media or self._parts.text is None or self.adapters:
            return self.module
        with self._lock:  # two threads must not each build one
            if self._text is None:
                self._text = self._parts.text()
            return self._text

    def attach(self, folder: str | Path, *, weight: float = 1.0) -> None:
        """Attach a PEFT folder (LoRA or DoRA) beside what is attached; weight: of its low-rank part.

        Gradients reach it; the linears that it changes are frozen until it is detached or merged.  Raises WeightsError
        or ConfigError, with the model as it was, for what does not fit or is not supported.
        """
        self.adapters.attach(as_path(folder, "attach"), weight)
        self.clear_caches()

    def detach(self, folder: str | Path | None = None) -> None:
        """Take the adapter of one folder off, or all; the weights are, bit for bit, what they were before."""
        self.adapters.detach(None if folder is None else as_path(folder, "detach"))
        self.clear_caches()

    def merge(self, folder: str | Path | None = None) -> None:
        """Write the adapter of one folder into the weights, or all, rounded once from float32."""
        self.adapters.merge(None if folder is None else as_path(folder, "merge"))
        self.clear_caches()

    def save_adapter(self, folder: str | Path, of: str | Path | None = None) -> Path:
        """Write what is attached, or what `apply_lora` made, as a folder that PEFT and `pm.load` read.

        of: the folder it came from, where several are attached.  Raises ConfigError when there is none to write.
        """
        return self.adapters.save(as_path(folder, "save_adapter"), None if of is None else as_path(of, "of"))

    def _adapter_keys(self) -> tuple[KeyTable, ...]:
        if self.system.formats and self.variant.config is not None:
            return self.system.model_spec(self.variant).adapter_keys
        return (own_names(self.module),)

    def save(self, folder: str | Path) -> Path:
        """Write the weights to a folder that `pm.load` reads; of a published checkpoint under its names and in its
        files, with all that lay beside them, so that whatever read the one (transformers, the official code) reads it.

        A saved folder is replaced, and stays whole until the new one is complete.  Raises ConfigError or WeightsError,
        before anything is written, while adapters are attached, for quantised weights and for changed modules.
        """
        from polymodal.api import saving

        if self.adapters:
            raise ConfigError(f"{self.name} has adapters; merge() or detach() them, or save_adapter(), before save()")
        return saving.save(self, as_path(folder, "save"))

    def client(self, module: Any) -> Client:
        """The engine that answers with `module` (see `module_for`), and what it keeps."""
        with self._lock:
            found = self._clients.get(id(module))
            if found is None:
                ends = self._parts.ends[0] if self._parts.ends is not None else ()
                found = Client(Engine(module, self.processor, limits=UNLIMITED, ends=ends))
                self._clients[id(module)] = found
        found.limit(self.limits)
        return found

    def clear_caches(self) -> None:
        """Forget what conversations and media left behind; their next turns compute everything anew."""
        for each in list(self._clients.values()):
            each.clear()

    @property
    def can(self) -> tuple[str, ...]:
        """What it does of the names below; "agent": `pm.agent` begins a conversation with it."""
        parts, module = self._parts, self.module
        found = {
            "chat": self.processor is not None and isinstance(module, MultimodalLM),
            "draw": self.paints or (self.processor is not None and isinstance(module, RendersMedia | RendersAnswers)),
            "ground": parts.ground is not None,
            "say": parts.speaks is not None,
            "transcribe": parts.transcribe is not None,
            "classify": parts.score is not None,
            "embed": parts.embed is not None,
            "answer": can_answer(self),
            "act": parts.act is not None,
            "turn": parts.turn is not None,
            "logits": fills(module, "logits"),
            "features": isinstance(module, HasFeatures),
            "predict": fills(module, "predictions"),
            "generate": can_generate(module),
            "agent": isinstance(module, AgentModule),
        }
        return tuple(verb for verb, here in found.items() if here)

    def require(self, verb: str) -> None:
        """Raises ConfigError, saying what the model can do, unless `verb` is in `can`."""
        if verb not in self.can:
            lack = self._lacks_tokenizer()
            raise ConfigError(
                f"{self.name} cannot {verb}; it takes {', '.join(self.system.inputs)} and offers "
                f"{', '.join(self.can)}{f'; its folder has {lack}' if lack else ''}"
            )

    def require_input(self, *media: Media | Text) -> None:
        """Raises PromptError, naming systems that can, for media of a modality that this model does not take."""
        check_media(self, *media)

    def _lacks_tokenizer(self) -> str | None:
        """What is wrong with the tokenizer of a folder that would do more with one; None where nothing is."""
        from polymodal.api.published import files_at

        lack = None if self.path is None else files_at(self.path).lacks_tokenizer()
        if lack is None:
            return None
        model_spec = self.system.model_spec(self.variant)
        return lack if model_spec.assemble is not None and model_spec.tokenizer else None
