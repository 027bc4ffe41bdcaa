"""Numbers <-> bytes under the names that applications of Durus 4.3 import."""

from durus.oid import oid_from_int as int8_to_str
from durus.oid import oid_to_int as str_to_int8

__all__ = ["int8_to_str", "str_to_int8"]
