"""Rename a class: the objects of `old_module.OldClass` in a file become objects of `new_module.NewClass`.

    python rename_class.py FILE old_module.OldClass new_module.NewClass

Both classes must be importable; the old one may be an empty class, or the new one under its old name.
`durus rename` does the same without importing anything.
"""

import importlib
import os
import sys

from durus.connection import Connection, gen_every_instance, touch_every_reference


def main(path: str, old: str, new: str) -> None:
    if not os.path.exists(path):  # or a new database would be made
        sys.exit(f"there is no file {path}")
    old_module_name, _, old_name = old.rpartition(".")
    new_module_name, _, new_name = new.rpartition(".")
    old_module = importlib.import_module(old_module_name)
    new_class = getattr(importlib.import_module(new_module_name), new_name)
    # Put the new class where the old class was, so that it is found under the name that is stored.
    setattr(old_module, old_name, new_class)
    with Connection(path) as connection:
        # An object is stored under the name that its class has now, and so is a reference to it.
        for obj in gen_every_instance(connection, new_class):
            obj._p_note_change()
        touch_every_reference(connection, old_name)
        print(f"{len(connection.changed)} objects are stored again")
        connection.commit()
        connection.pack()


if __name__ == "__main__":
    main(*sys.argv[1:])
