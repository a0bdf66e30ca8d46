"""mini: our own small model that answers about pictures and speech on a CPU the moment it is installed.

    picture -> 224 x 224 on white -> EfficientNet-Lite0 at five depths -> names connector: 12 words and 8 dense
            features -> spliced at placeholders -> SmolLM2-135M-Instruct -> text                       (fusion type C)
    speech  -> Whisper tiny.en -> its words, as text of the conversation
               `mini:hears`: -> its encoder alone -> spoken connector -> embeddings spliced like a picture's
    picture, sentence -> vectors of one space (all-MiniLM-L6-v2), for `embed` and `classify`

Published weights are fetched from package registries; what we trained (the connectors and rank-8 adapters of SmolLM2)
ships in `assets/`.  Recipe: recipes/mini; numbers: docs/mini.md.
Traps: the adapters change what SmolLM2 says about anything, so a conversation without picture or recording is
answered by the bare model, which takes its own memory when the first one comes.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.speech_as_features import SpeechAsFeatures
from polymodal.pipelines.speech_as_text import SpeechAsText, open_whisper
from polymodal.systems import LoadedModel, LoadOptions, Part, System, Variant
from polymodal.systems.mini import components
from polymodal.systems.mini.recipe import RECIPE
from polymodal.systems.mini.sentence_space import MiniLM, SentenceSpace
from polymodal.weights.load import open_source, under
from polymodal.weights.packed import unpack


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    """Build, fill from the published files and from ours, merge the adapters, and join what hears and compares."""
    source = partial(open_source, progress=options.progress, offline=options.offline)
    place: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    language, trained = source(components.SMOLLM2_135M_GGUF), source(components.TRAINED)
    ours, tokenizer = unpack(trained), Tokenizer.from_gguf(language.metadata)
    encoder, connector = components.load_vision(source(components.LITE0_SOURCE), ours)
    backbone = components.load_lm(language, under(ours, "adapters."))
    components.add_yes_bias(backbone, tokenizer, ours[components.YES])
    if options.quantise is not None:  # the head copies the embeddings, with the row that was just changed
        backbone.quantise()
    components.set_vocabulary(connector, json.loads(trained.metadata["names"]), tokenizer, backbone.embed_tokens.weight)
    image = Modality(
        name="image",
        placeholder=components.PLACEHOLDER,
        transform=components.IMAGE,
        before=components.BEFORE,
        after=components.AFTER,
        tokens=SameCount(components.CONNECTOR.tokens(components.ENCODER.tokens)),
    )
    hearing: SpeechAsText | SpeechAsFeatures
    if variant.name == components.HEARS:
        hears = components.load_audio(
            source(components.TINY_EN_WEIGHTS), source(components.TRAINED_HEARS), backbone.embed_tokens.weight
        )
        model = components.join(encoder, connector, backbone, hears).to(**place).eval()
        hearing = SpeechAsFeatures(model, tokenizer, components.WHISPER["tiny.en"].mel)
        modalities: tuple[Modality, ...] = (image, hearing.modality(components.SPOKEN_PLACEHOLDER))
    else:
        model = components.join(encoder, connector, backbone, None).to(**place).eval()
        hearing = SpeechAsText(
            partial(open_whisper, "tiny.en", components.TINY_EN_WEIGHTS, components.ENGLISH_RANKS, source)
        )
        modalities = (image,)
    processor = Processor(
        tokenizer=tokenizer,
        template=components.TEMPLATE,
        modalities=modalities,
        max_length=components.BACKBONE.max_length,
        rewrite=hearing.rewrite,
    )
    space = SentenceSpace(
        encoder, connector, components.IMAGE, MiniLM(components.MINILM, components.MINILM_TOKENIZER, source)
    )
    bare = partial(MultimodalLM, {}, {})
    return LoadedModel(
        model=model,
        processor=processor,
        text=lambda: bare(components.load_lm(language, {}, options.quantise).to(**place), {}),
        transcribe=hearing.text,
        transcribe_windows=hearing.windows if isinstance(hearing, SpeechAsText) else None,
        score=space.score,
        embed=space.embed,
        sampling={"repetition_penalty": components.REPETITION_PENALTY},
    )


def build(variant: Variant) -> MultimodalLM:
    return components.join(
        *components.fresh(),
        components.BACKBONE.build(),
        components.fresh_hearing() if variant.name == components.HEARS else None,
    )


def parts(variant: Variant) -> tuple[Part, ...]:
    slots, hears = components.CONNECTOR.tokens(components.ENCODER.tokens), variant.name == components.HEARS
    grid = f"[N, {components.ENCODER.tokens}, {components.ENCODER.width}]"
    whisper = (
        Part(slot="encoder", modality="audio", name="Whisper tiny.en's encoder", prefix="encoders.audio",
             input="[N, 80, 3000]", output="[N, 1500, 384]", tokens=components.EAR.tokens),
        Part(slot="connector", modality="audio", name=f"spoken: CTC over {components.SPOKEN.vocab_size} tokens",
             prefix="connectors.audio", input="[N, 1500, 384]", output="N of [tokens heard, 576]"),
    ) if hears else (
        Part(slot="encoder", modality="audio", name="Whisper tiny.en, encoder and decoder", prefix="",
             parameters=37_184_256, input="[samples]", output="words of the conversation"),
    )  # fmt: skip
    return (
        Part(slot="encoder", modality="image", name="EfficientNet-Lite0, blocks 7, 10, 14, 15 and top",
             prefix="encoders.image", input="[N, 3, 224, 224]", output=grid,
             tokens=components.ENCODER.tokens),
        *whisper[:1],
        Part(slot="connector", modality="image", name=f"names: 12 words of {components.CONNECTOR.names} names, 8 dense",
             prefix="connectors.image", input=grid, output=f"[N, {slots}, 576]", tokens=slots),
        *whisper[1:],
        Part(slot="backbone", name="SmolLM2-135M-Instruct + rank-8 adapters", prefix="backbone", input="[B, T, 576]",
             output="[B, T, 49152]"),
    )  # fmt: skip


SYSTEM = System(
    id="mini",
    aliases=("mini", "polymodal mini"),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "audio"),
    outputs=("text",),
    variants=(
        Variant(name="135m", parameters=183_862_523, weights=components.WEIGHTS),
        Variant(name=components.HEARS, parameters=159_540_548, summary="hears through Whisper's encoder alone",
                weights=tuple(source for source in components.WEIGHTS if source is not components.ENGLISH_RANKS)),
    ),
    headline="names and describes a picture and answers typed or spoken questions about it, on a CPU",
    reference="docs/mini.md",
    build=build,
    parts=parts,
    load=load,
    recipe=RECIPE,
)  # fmt: skip
