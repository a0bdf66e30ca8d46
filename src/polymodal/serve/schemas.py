"""What clients send, as OpenAI's interface names it.  Unknown fields are refused by name, as OpenAI does.

Fields that change nothing here (user, metadata, store ...) are taken and not read.  Beyond OpenAI's: top_k, min_p,
repetition_penalty, min_tokens, structured_outputs, cache_salt (what was computed for others with another one, or with
another key, does not serve this request, so that nobody learns from its speed what they sent), as vLLM names them;
num_beams, length_penalty, as `transformers` does.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Numbers are bounded so that no score overflows, and lists so that no step of all answers is slow.
Bias = Annotated[float, Field(ge=-100, le=100)]
Stop = Annotated[str, Field(max_length=1000)]
Unread = Any  # taken, since clients send it, and not read


class Body(BaseModel):
    """A JSON object without unknown fields, whose numbers are numbers ("7" and true are none)."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    """include_usage: a last chunk without choices that holds the numbers of tokens."""

    include_usage: bool = False
    include_obfuscation: Unread = None


class StructuredOutputs(Body):
    """The form of an answer, one of: a JSON schema, a regular expression, texts to choose from, a grammar (Lark)."""

    json_: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None


class Sampling(Body):
    """What chat and text completions share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    structured_outputs: StructuredOutputs | None = None
    num_beams: Annotated[int, Field(ge=1)] | None = None
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] = ""
    user: Unread = None
    metadata: Unread = None
    store: Unread = None
    service_tier: Unread = None
    safety_identifier: Unread = None
    prompt_cache_key: Unread = None


class ChatCompletion(Sampling):
    """POST /v1/chat/completions"""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1024)]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: Unread = None


class Completion(Sampling):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    echo: Literal[False] = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Embeddings(Body):
    """POST /v1/embeddings.  input: texts, or parts as in a chat message ({"type": "image_url", ...})."""

    model: str
    input: str | dict[str, Any] | Annotated[list[str | dict[str, Any]], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: Unread = None


class Grounded(Body):
    """POST /v1/grounding.  answer: of a chat about `images`, which are parts as in its messages (image_url)."""

    model: str
    answer: Annotated[str, Field(min_length=1)]
    images: Annotated[list[dict[str, Any]], Field(min_length=1)]


class Images(Body):
    """POST /v1/images/generations.  size: "WIDTHxHEIGHT"; seed: beyond OpenAI's, of the first picture."""

    model: str
    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1)] | None = None
    size: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    quality: Literal["auto", "standard"] | None = None
    moderation: Unread = None
    user: Unread = None


class Speech(Body):
    """POST /v1/audio/speech.  voice: one of `polymodal say --voices`, or OpenAI's name of one (alloy)."""

    model: str
    input: Annotated[str, Field(min_length=1)]
    voice: str = "af_heart"
    response_format: str = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    instructions: Literal[""] | None = None
    stream_format: Literal["audio"] | None = None
