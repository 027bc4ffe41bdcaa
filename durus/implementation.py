"""Which form the hot paths have: the C extension, or the Python that it stands for.

DURUS_PURE_PYTHON=1 in the environment makes Durus use the Python.
"""

import importlib
import os
from typing import Literal


def _choose() -> Literal["C", "Python"]:
    if os.environ.get("DURUS_PURE_PYTHON", "0") not in ("", "0"):
        return "Python"
    try:
        importlib.import_module("durus._persistent")
    except ImportError:
        return "Python"
    return "C"


implementation: Literal["C", "Python"] = _choose()
