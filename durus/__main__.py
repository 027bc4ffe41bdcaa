"""The `durus` command, as `python -m durus` and `python path/to/durus/__main__.py` too."""

import os
import sys

if not __package__:  # started as a script: its folder must not stand in front of the standard library
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from durus.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
