"""How each kind of example in spec/ is run."""

from collections.abc import Callable

from tests.spec import Example

RUNNERS: dict[str, Callable[[Example], None]] = {}
