"""Durus: a persistent object system for Python.

An application keeps ordinary Python objects.  The ones that inherit from
durus.persistent.Persistent are stored, loaded on first touch and changed in transactions.
Start with durus.connection.Connection; spec/ says what is true of files and transactions.
"""

__version__ = "5.0.0.dev0"
