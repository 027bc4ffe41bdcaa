"""What occurs more than once in a state is written once, and referred to by a number. Statement EXP-9."""

from durus.records.plain_forms import MAX_DEPTH, MAX_KEY, Form, NoFormError, Plain, children

_SHAREABLE = frozenset(("$tuple", "$set", "$frozenset", "$call", "$new"))


def _is_shareable(value: Plain) -> bool:
    """Return whether a value that occurs twice in a state is written once. [EXP-9]"""
    kind = type(value)
    if kind is Form:
        key = next(iter(value))  # type: ignore[call-overload]  # mypy does not know that it is a Form
        return key in _SHAREABLE or (key == "$int" and len(value["$int"]) > MAX_KEY)  # type: ignore[index]
    if kind is str or kind is bytes:
        return len(value) > MAX_KEY  # type: ignore[arg-type]  # likewise
    return kind in (list, dict, bytearray)


class SharedValues:
    """The values that steps took from the memo, or doubled, and that may therefore occur more than once."""

    def __init__(self) -> None:
        self._fetched: dict[int, Plain] = {}
        """By id(): the values that were used again and can be shared."""
        self._argument_tuples: dict[int, Form] = {}
        """By the id() of its list: a tuple that was used again."""

    def note(self, value: Plain) -> None:
        """Note that a value was used again."""
        if _is_shareable(value):
            self._fetched[id(value)] = value
            if type(value) is Form and "$tuple" in value:
                self._argument_tuples[id(value["$tuple"])] = value

    def is_used_again(self, value: Plain) -> bool:
        """Whether a value is a list, text or bytes that were used again: a copy would repeat what is in it. [EXP-6]"""
        return id(value) in self._fetched and isinstance(value, str | bytes | list)

    def _part(self, key: str | int, part: Plain) -> Plain:
        """Return a part of a value, where arguments are the tuple that they were taken from."""
        return self._argument_tuples.get(id(part), part) if key == "args" else part

    def number(self, state: Plain) -> Plain:
        """Return the state with a number for each value that occurs twice, in the order of their first occurrences."""
        if not self._fetched:
            return state
        counts = dict.fromkeys(self._fetched, 0)
        pending = [state]
        while pending:
            value = pending.pop()
            if id(value) in counts:
                counts[id(value)] += 1
                if counts[id(value)] > 1:
                    continue
            pending += [self._part(key, part) for key, part in children(value)]
        shared = {each for each, count in counts.items() if count > 1}
        if not shared:
            return state
        numbers: dict[int, int] = {}
        holder: list[Plain] = [state]
        slots: list[tuple[list[Plain] | dict[str, Plain], str | int]] = [(holder, 0)]
        while slots:
            container, key = slots.pop()
            value = container[key]  # type: ignore[index]  # it is a key of this container
            whole = self._part(key, value)
            if id(whole) in shared:
                value = whole
                number = numbers.get(id(value))
                new = Form({"$same": number})
                if number is None:
                    number = numbers[id(value)] = len(numbers) + 1
                    new = Form({"$id": number, "$value": value})
                container[key] = new  # type: ignore[index]  # likewise
                if "$same" in new:
                    continue
            slots += [(value, each) for each, _ in reversed(list(children(value)))]  # type: ignore[misc]
        return holder[0]


def check_depth(state: Plain) -> None:
    """NoFormError if the state is nested too deep. [EXP-10]"""
    depth, level = 0, [state]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise NoFormError(f"its state is nested more than {MAX_DEPTH} levels deep")
        level = [part for value in level for _, part in children(value) if isinstance(part, list | dict)]
