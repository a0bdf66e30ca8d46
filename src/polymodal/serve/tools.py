"""Functions that a client offers to the model: how they are described to it, and how its calls are read.

    tools -> a system text that describes them -> "<tool_call>{...}</tool_call>" in the answer -> tool_calls

The marks are those that Hermes and Qwen models learnt; other models read how to write them in the text.  With
tool_choice "required", or a function by name, a grammar lets the model write nothing but a call whose arguments fit
the function's schema.  An answer that holds no call that can be read is a text.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import PolymodalError, PromptError
from polymodal.files import parse_json
from polymodal.generation.structured import Structured
from polymodal.serve.errors import Refused

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
HOW = (
    "You may call these functions. To call one, answer with nothing but\n"
    '<tool_call>{"name": "NAME OF THE FUNCTION", "arguments": {...}}</tool_call>\n'
    "Functions:\n"
)


@dataclass(frozen=True)
class Tools:
    """The functions of one request: name -> {"name", "description", "parameters"}; forced: one must be called."""

    functions: Mapping[str, Mapping[str, Any]]
    forced: tuple[str, ...] = ()

    @classmethod
    def read(cls, tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> Tools | None:
        """From a request; None where no function may be called.  Raises Refused."""
        if not tools or choice == "none":
            if isinstance(choice, Mapping) or choice == "required":
                raise Refused(400, "tool_choice asks for a call, but tools names no function", param="tool_choice")
            return None
        functions = {}
        for index, tool in enumerate(tools):
            function = tool.get("function") if tool.get("type") == "function" else None
            name = function.get("name") if isinstance(function, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(name, str) or not NAME.fullmatch(name):
                raise Refused(400, f"tools[{index}]: expected a function with a name", param="tools")
            if not isinstance(function.get("parameters", {}), Mapping):
                raise Refused(400, f"tools[{index}].function.parameters: expected a JSON schema", param="tools")
            functions[name] = function
        forced: tuple[str, ...] = ()
        if choice == "required":
            forced = tuple(functions)
        elif isinstance(choice, Mapping):
            chosen = choice.get("function")
            name = chosen.get("name") if isinstance(chosen, Mapping) else None
            if name not in functions:
                raise Refused(400, f"tool_choice names {str(name)[:64]!r}, which is not in tools", param="tool_choice")
            forced = (name,)
        return cls(functions, forced)

    def described(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation with the functions described in its system message."""
        lines = [
            json.dumps({key: function[key] for key in ("name", "description", "parameters") if key in function})
            for function in self.functions.values()
        ]
        text = HOW + "\n".join(lines)
        first = messages[0] if messages and messages[0].role == "system" else None
        if first is None:
            return (Message(role="system", parts=(Text(text),)), *messages)
        return (Message(role="system", parts=(*first.parts, Text("\n\n" + text))), *messages[1:])

    def grammar(self, forms: Structured) -> str:
        """What an answer that must be a call may be."""
        calls = [
            {
                "type": "object",
                "properties": {
                    "name": {"const": name},
                    "arguments": self.functions[name].get("parameters") or {"type": "object"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for name in self.forced
        ]
        schema = calls[0] if len(calls) == 1 else {"anyOf": calls}
        return forms.lark(f"start: {json.dumps(OPEN)} call {json.dumps(CLOSE)}\ncall: %json {json.dumps(schema)}")

    def calls(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """An answer as (the text before its calls, the calls); without one that can be read, (text, [])."""
        before, *parts = text.split(OPEN)
        found = []
        for part in parts:
            try:
                call = parse_json(part.partition(CLOSE)[0], "the call")
            except PolymodalError:
                return text, []
            name = call.get("name") if isinstance(call, dict) else None
            arguments = call.get("arguments", {}) if isinstance(call, dict) else None
            if name not in self.functions or not isinstance(arguments, dict):
                return text, []
            function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
            found.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        return (before.strip(), found) if found else (text, [])


def calls_as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the history whose calls are written out, as the model wrote them.  Raises Refused."""
    calls = message.get("tool_calls")
    if not calls:
        return {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
    if not isinstance(calls, list):
        raise Refused(400, "tool_calls: expected a list", param="messages")
    written = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Refused(400, "tool_calls: expected calls of functions", param="messages")
        arguments = parse_json(str(function.get("arguments") or "{}"), "tool_calls.function.arguments", PromptError)
        call_text = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
        written.append(f"{OPEN}{call_text}{CLOSE}")
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise Refused(400, "a message with tool_calls may have text besides, nothing else", param="messages")
    return {"role": "assistant", "content": content + "\n".join(written)}
