"""The C extension. It is optional: without a compiler, durus is installed without it. All else is in pyproject.toml.

DURUS_PURE_PYTHON=1 in the environment builds a wheel without it, for every system.
"""

import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalExtension(build_ext):
    """Says what it means for the program that the extension could not be built."""

    def run(self) -> None:
        super().run()
        missing = [name for name in self.get_outputs() if not os.path.exists(name)]
        if missing and not self.editable_mode:
            self.warn("durus is installed without its C extension: it does the same in Python, and slower")


is_pure = os.environ.get("DURUS_PURE_PYTHON", "0") not in ("", "0")
extension = Extension(
    "durus._persistent",
    [
        "durus/_persistent.c",
        "durus/_btree.c",
        "durus/_cache.c",
        "durus/_collections.c",
        "durus/_encode.c",
        "durus/_entry_index.c",
        "durus/_files.c",
        "durus/_pickle_work.c",
        "durus/_plain.c",
        "durus/_plain_forms.c",
        "durus/_plain_writer.c",
        "durus/_read_set.c",
        "durus/_states.c",
    ],
    depends=["durus/_byte_buffer.h", "durus/_persistent.h"],
    optional=True,
)
setup(ext_modules=[] if is_pure else [extension], cmdclass={"build_ext": OptionalExtension})
