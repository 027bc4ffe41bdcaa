"""Rename a module: the objects of all classes of `oldmodule` in a file become objects of those of `newmodule`.

    python rename_module.py FILE oldmodule newmodule

`durus rename` does the same without importing anything.
"""

import importlib
import os
import sys

from durus.connection import Connection, gen_every_instance, touch_every_reference
from durus.persistent import PersistentObject


def main(path: str, old: str, new: str) -> None:
    if not os.path.exists(path):  # or a new database would be made
        sys.exit(f"there is no file {path}")
    module = importlib.import_module(new)
    sys.modules[old] = module  # where the names that are stored lead to
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == new]
    with Connection(path) as connection:
        for obj in gen_every_instance(connection, *(each for each in classes if issubclass(each, PersistentObject))):
            obj._p_note_change()
        touch_every_reference(connection, old)
        print(f"{len(connection.changed)} objects are stored again")
        connection.commit()
        connection.pack()


if __name__ == "__main__":
    main(*sys.argv[1:])
