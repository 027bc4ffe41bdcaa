"""Sockets of a class of their own, as those of gevent are: they do not wait in the kernel."""

import socket

import pytest

from durus import client_storage
from durus.sharing import reaching


class GreenSocket(socket.socket):
    """A socket that only differs in its class."""


def use_green_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients connect with them."""
    connect = reaching.connect

    def connect_green(*arguments: object) -> socket.socket:
        return GreenSocket(fileno=connect(*arguments).detach())  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(client_storage, "connect", connect_green)
