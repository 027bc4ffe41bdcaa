"""Tests whether a program follows the specification of Durus. README.md of this project says how to use it."""

__version__ = "1.1.0"
