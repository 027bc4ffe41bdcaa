"""`durus serve --storage postgresql://...`, with clients of both versions of the protocol."""

from pathlib import Path

import pytest

import durus
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import WriteConflictError
from durus.persistent_dict import PersistentDict
from tests.integration.serving import serving


@pytest.mark.spec("CMD-5", "PG-3", "PG-60", "PG-61", "PG-66")
def test_two_servers_share_a_database_of_an_engine(postgres_address: str, tmp_path: Path) -> None:
    arguments = "--storage", postgres_address
    with serving(*arguments, folder=tmp_path) as one, serving(*arguments, folder=tmp_path) as other:
        assert f"serving {postgres_address}\n" in one.said
        a, b = one.connect(), other.connect()
        old = Connection(ClientStorage(port=other.port, protocol=1))
        a.get_root()["x"] = PersistentDict(n=1)
        a.commit()
        for connection in b, old:
            connection.abort()
            assert connection.get_root()["x"]["n"] == 1
        a.get_root()["x"]["n"] = 2
        a.commit()
        b.get_root()["x"]["n"] = 3
        with pytest.raises(WriteConflictError):
            b.commit()
        old.abort()
        old.get_root()["x"]["n"] = 4
        old.commit()
        with durus.open(postgres_address) as db, db.transaction() as root:
            assert root["x"]["n"] == 4
            root["x"]["n"] = 5
        a.abort()
        assert a.get_root()["x"]["n"] == 5
        reader = Connection(ClientStorage(port=one.port), snapshot=True)
        shown = reader.get_root()["x"]
        a.get_root()["x"]["n"] = 6
        a.commit()
        assert shown["n"] == 5
        reader.abort()
        assert shown["n"] == 6
        reader.close()
        a.get_root()["y"] = a.get_root().pop("x")
        a.commit()
        del a.get_root()["y"]
        a.commit()
        a.pack()
        b.abort()
        assert dict(b.get_root()) == {}
        for connection in a, b, old:
            connection.close()
