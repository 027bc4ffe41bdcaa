"""The C extension. It is optional: without a compiler, durus is installed without it. All else is in pyproject.toml."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("durus._persistent", ["durus/_persistent.c"], optional=True)])
