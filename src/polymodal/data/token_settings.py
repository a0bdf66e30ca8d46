"""What the files beside a vocabulary say of its tokens: which are special, how they are called, which ids they have.

    tokenizer_config.json (options, roles, added_tokens_decoder)
    special_tokens_map.json, added_tokens.json (older; read where there is no added_tokens_decoder)  -> TokenSettings

Traps: a token is a text or a table with its content and flags; `null` takes a role away that the class would give;
older files call the other special tokens `additional_special_tokens`, newer ones `extra_special_tokens`, where an empty
table says nothing; special_tokens_map.json overrides tokenizer_config.json when it is read at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Pipeline

from polymodal.data.tokenizer_parts import check_added
from polymodal.data.vocabulary_files import read_table
from polymodal.errors import ConfigError, WeightsError

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """The token files of one folder.

    options: tokenizer_config.json as it is.  roles: "bos", "eos", ... and the model's own ("image") -> token, None
    where the files say that there is none.  extra: other special tokens, None where no file lists any.  added_by_id:
    id -> token, for the tokens whose ids the files give.
    """

    options: Mapping[str, Any]
    roles: Mapping[str, AddedToken | None]
    extra: tuple[AddedToken, ...] | None
    added_by_id: Mapping[int, AddedToken]

    def role(self, name: str, default: str | None) -> str | None:
        """The text of a role, `default` where the files do not speak of it."""
        token = self.roles.get(name, default)
        return token.content if isinstance(token, AddedToken) else token

    def option(self, name: str, kind: type, default: Any) -> Any:
        """An entry of tokenizer_config.json; raises ConfigError when it is of another kind."""
        found = self.options.get(name)
        if found is None:
            return default
        if type(found) is not kind:
            raise ConfigError(f"{CONFIG}: {name} must be a {kind.__name__}, found {found!r}")
        return found

    def tokens(
        self, defaults: Mapping[str, str | None], control: Iterable[AddedToken] = (), raw: bool = False
    ) -> list[AddedToken]:
        """What is added to a vocabulary, in the order that gives new tokens their ids.

        defaults: the roles that the tokenizer's class gives.  control: special tokens of the vocabulary file, which
        count where no file lists extra ones.  raw: tokens with a given id are looked for before text is normalised.
        """
        standard = {name: self.roles.get(name, _special(defaults.get(name))) for name in ROLES}
        own = {name: token for name, token in self.roles.items() if name not in ROLES}
        named = [token for token in (*standard.values(), *own.values()) if token is not None]
        special = {token.content for token in named}
        added = []
        for _, token in sorted(self.added_by_id.items(), key=lambda item: item[0]):
            normalized = token.normalized and not raw
            added.append(_with(token, special=token.special or token.content in special, normalized=normalized))
        present = {token.content for token in added}
        others = [*named, *(tuple(control) if self.extra is None else self.extra)]
        for token in others:
            if token.content not in present:
                special_too = token.special or token.content in special
                added.append(_with(token, special=special_too, normalized=token.normalized))
        return added

    def add_to(self, pipeline: Pipeline, tokens: Iterable[AddedToken], where: Path) -> None:
        """Adds them; raises WeightsError for too many, and when a token then has another id than the files give it."""
        added = list(tokens)
        try:
            check_added(token.content for token in added)
        except ValueError as problem:
            raise WeightsError(f"tokenizer: {where} is not a valid vocabulary ({problem})") from None
        pipeline.add_tokens(added)
        for index, token in self.added_by_id.items():
            found = pipeline.token_to_id(token.content)
            if found != index:
                raise WeightsError(
                    f"tokenizer: {where} gives {token.content!r} the id {index}, but behind the vocabulary it is "
                    f"{found}; the files do not belong together, or save them as tokenizer.json"
                )


def read_settings(folder: Path) -> TokenSettings:
    """The token files of a folder, none of which need be there.

    Raises WeightsError for files that are not JSON tables, ConfigError for entries that are no tokens.
    """
    options = read_table(folder / CONFIG)
    roles: dict[str, AddedToken | None] = {}
    for key, value in options.items():
        # Others than the standard ones are the model's own, or a setting whose name happens to end so.
        if key.endswith("_token") and (key[:-6] in ROLES or isinstance(value, (str, dict))):
            roles[key[:-6]] = None if value is None or value == "" else _token(value, f"{CONFIG}: {key}")
    extra = _extra(options, CONFIG, roles)
    given = options.get("added_tokens_decoder")
    if given is not None:
        return TokenSettings(options=options, roles=roles, extra=extra, added_by_id=_decoder(given))
    older = read_table(folder / MAP)
    for key, value in older.items():
        if key.endswith("_token") and value:
            roles[key[:-6]] = _token(value, f"{MAP}: {key}", special=True)
    listed = _extra(older, MAP, roles)
    if listed is not None:
        extra = (*(extra or ()), *(token for token in listed if token not in (extra or ())))
    special = {token.content for token in (*roles.values(), *(extra or ())) if token is not None}
    added_by_id = {}
    for name, index in read_table(folder / ADDED).items():
        _check_id(index, f"{ADDED}: {name!r}")
        added_by_id[index] = AddedToken(name, normalized=name not in special, special=name in special)
    return TokenSettings(options=options, roles=roles, extra=extra, added_by_id=added_by_id)


def _extra(table: Mapping[str, Any], where: str, roles: dict[str, AddedToken | None]) -> tuple[AddedToken, ...] | None:
    """The other special tokens; a table of them names roles of the model's own, which go to `roles`."""
    found = table.get("extra_special_tokens")
    if isinstance(found, dict):
        roles.update({name.removesuffix("_token"): _token(value, where) for name, value in found.items()})
    listed = table.get("additional_special_tokens") if not found or isinstance(found, dict) else found
    if listed is None:
        return () if isinstance(found, list) else None
    if not isinstance(listed, list):
        raise ConfigError(f"{where}: the extra special tokens must be a list, found {type(listed).__name__}")
    return tuple(_token(value, f"{where}: an extra special token", special=True) for value in listed)


def _decoder(table: Any) -> dict[int, AddedToken]:
    """`added_tokens_decoder`: id as a text -> token."""
    if not isinstance(table, dict):
        raise ConfigError(f"{CONFIG}: added_tokens_decoder must be a table, found {type(table).__name__}")
    added_by_id = {}
    for key, value in table.items():
        if not key.isascii() or not key.isdecimal() or len(key) > 9:
            raise ConfigError(f"{CONFIG}: added_tokens_decoder has the id {key[:20]!r}; expected a number")
        added_by_id[int(key)] = _token(value, f"{CONFIG}: added_tokens_decoder")
    return added_by_id


def _check_id(index: Any, what: str) -> None:
    if type(index) is not int or not 0 <= index < 1 << 30:
        raise ConfigError(f"{what} has the id {index!r}; expected a number")


def _token(value: Any, what: str, *, special: bool | None = None) -> AddedToken:
    """A token as a file spells it: a text, which is special, or a table with `content` and flags."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=True)
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {name: value[name] for name in _FLAGS if name in value}
        if special is not None:
            flags["special"] = special
        if all(type(flag) is bool for flag in flags.values()):
            return AddedToken(value["content"], **flags)
    raise ConfigError(f"{what}: {str(value)[:60]!r} is not a token; expected a text, or a table with content and flags")


def _special(name: str | None) -> AddedToken | None:
    return None if name is None else AddedToken(name, special=True)


def _with(token: AddedToken, *, special: bool, normalized: bool) -> AddedToken:
    """The token with other flags; what else it says stays."""
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=normalized,
        special=special,
    )
