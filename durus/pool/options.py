"""Options of durus.open(), as keywords or in the query of an address. Statement DB-2."""

from collections.abc import Mapping

from durus.error import ArgumentError

OptionType = type[bool] | type[int] | type[float] | type[str]
"""The type of an option; a float may also be None."""
Value = bool | int | float | str | None

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_POSITIVE = ("cache_size", "cache_bytes", "tries")
_CALLED = {bool: "true or false", int: "a whole number", float: "a number of seconds, or None", str: "a text"}


def read_query(query: str) -> dict[str, str]:
    """Return the options in the query of an address; ArgumentError if it is not `name=value&name=value`."""
    from urllib.parse import parse_qsl  # only if needed, because of its imports

    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError as error:
        raise ArgumentError(f"the options {query!r} are not of the form name=value&name=value: {error}") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ArgumentError(f"an option occurs twice in {query!r}")
    return options


def check_options(
    where: str, known: Mapping[str, OptionType], keywords: Mapping[str, object], query: Mapping[str, str]
) -> dict[str, Value]:
    """Return all options with values of their types; ArgumentError for an option that `where` does not have."""
    for name in (*keywords, *query):
        if name not in known:
            raise ArgumentError(f"{where} has no option {name!r}; it has {', '.join(sorted(known))}")
    for name in query:
        if name in keywords:
            raise ArgumentError(f"the option {name!r} is given in the address and as a keyword")
    options = {name: _check(name, known[name], value) for name, value in keywords.items()}
    options |= {name: _read(name, known[name], text) for name, text in query.items()}
    for name, value in options.items():
        if name in _POSITIVE and isinstance(value, int) and value < 1:
            raise ArgumentError(f"the option {name!r} is {value!r}: it must be at least 1")
    return options


def _check(name: str, kind: OptionType, value: object) -> Value:
    if kind is float and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
        return value
    if type(value) is kind and isinstance(value, bool | int | float | str):
        return value
    raise _not_of(name, kind, value)


def _read(name: str, kind: OptionType, text: str) -> Value:
    lower = text.lower()
    if kind is str:
        return text
    if kind is bool and lower in _WORDS:
        return _WORDS[lower]
    if kind is float and lower == "none":
        return None
    try:
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except ValueError:
        pass
    raise _not_of(name, kind, text)


def _not_of(name: str, kind: OptionType, value: object) -> ArgumentError:
    return ArgumentError(f"the option {name!r} is {value!r}: it must be {_CALLED[kind]}")
