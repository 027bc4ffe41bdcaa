"""Values as the cells of a table have them, for exports to SQLite and CSV. Statements EXP-41 and EXP-50."""

from collections.abc import Iterable
from typing import TypeAlias

from durus.records.plain import PlainState
from durus.records.plain_forms import Form, Plain, json_of_name, to_json

Cell: TypeAlias = str | int | float | bytes | None

_TEXTS = ("$date", "$datetime", "$time", "$decimal", "$uuid")
_MAX_INT = 1 << 63
_THEMSELVES = frozenset((type(None), int, float, bytes))
"""The types of values that are cells as they are."""


def attributes_of(state: PlainState) -> dict[str, Plain]:
    """Return the attributes of a state; a state that has none is the attribute `(state)`."""
    value = unwrapped(state.state)
    if value is None:
        return {}
    if isinstance(value, dict) and not isinstance(value, Form) and "$dict" not in value:
        return value
    return {"(state)": value}


def unwrapped(value: Plain) -> Plain:
    """Return a value without the number that it has because it is shared."""
    return value["$value"] if isinstance(value, Form) and "$id" in value else value


class Cells:
    """The cells of one object; a text that is shared is the same in each."""

    def __init__(self) -> None:
        self._shared: dict[Plain, Plain] = {}

    def cells(self, values: Iterable[Plain]) -> list[Cell]:
        """Return the cells of values."""
        return [value if type(value) in _THEMSELVES else self.cell(value) for value in values]  # type: ignore[misc]

    def cell(self, value: Plain) -> Cell:
        """Return the cell of a value: itself, its text, or its form as JSON."""
        if type(value) is str and value.isascii():
            return value
        if isinstance(value, Form):
            if "$ref" in value:
                return f'{{"$ref": {value["$ref"]}, "class": {json_of_name(value["class"])}}}'
            if "$id" in value or "$same" in value:
                value = self._without_number(value)
        if isinstance(value, str):
            return value if _is_storable(value) else to_json(value)
        if value is None or isinstance(value, float | bytes):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, Form) and len(value) == 1:
            ((key, text),) = value.items()
            if key in _TEXTS and isinstance(text, str):
                return text
            if key == "$int" and isinstance(text, str) and len(text) < 21 and -_MAX_INT <= int(text) < _MAX_INT:
                return int(text)
        return to_json(value)

    def _without_number(self, form: Form) -> Plain:
        match form:
            case {"$id": number, "$value": (str() | bytes()) as text}:
                self._shared[number] = text
                return text
            case {"$same": number} if number in self._shared:
                return self._shared[number]
        return form


def _is_storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # it has a lone surrogate
        return False
    return True
