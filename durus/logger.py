"""The log of Durus under the names that applications of Durus 4.3 import. logging.getLogger("durus") is the same."""

import logging
import warnings
from typing import TextIO

__all__ = ["direct_output", "is_logging", "log", "logger"]

logger = logging.getLogger("durus")
log = logger.log


def is_logging(level: int) -> bool:
    """Return whether messages of this level are logged. Deprecated.

    Args:
        level: a level of the module logging.
    """
    warnings.warn("is_logging() is deprecated; call logger.isEnabledFor()", DeprecationWarning, stacklevel=2)
    return logger.isEnabledFor(level)


def direct_output(file: TextIO) -> None:
    """Log to an open file, instead of that of an earlier call, and leave sys.stdout and sys.stderr alone. Deprecated.

    Args:
        file: a file that is open for text.
    """
    warnings.warn(
        "direct_output() is deprecated; add a handler to logging.getLogger('durus')", DeprecationWarning, stacklevel=2
    )
    for handler in logger.handlers[:]:
        if isinstance(handler, _DirectedHandler):
            logger.removeHandler(handler)
    logger.addHandler(_DirectedHandler(file))


class _DirectedHandler(logging.StreamHandler[TextIO]):
    """The handler that direct_output() has added."""
