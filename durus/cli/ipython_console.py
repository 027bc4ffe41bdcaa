"""IPython as the shell: importing this fails where IPython is not installed. Statements CMD-30, CMD-31 and CMD-34."""

import sys
from types import TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.terminal.ipapp import TerminalIPythonApp
from IPython.utils.generics import complete_object
from traitlets.config import Config

from durus.cli.api_names import is_for_applications
from durus.cli.leaving import Leaving
from durus.cli.shell_errors import keep_as_last, one_line
from durus.error import DurusError
from durus.objects.unstorable import CONSOLE
from durus.persistent import ConnectionBase, PersistentBase


def run_ipython(names: dict[str, Any], banner: str, leaving: Leaving) -> None:
    """Run IPython, with the user's own configuration, until it ends and `leaving` allows it."""
    config = Config()
    config.TerminalInteractiveShell.banner1 = banner + "\n"
    config.TerminalInteractiveShell.enable_tip = False
    config.TerminalInteractiveShell.confirm_exit = False  # `leaving` asks, if there is a reason
    config.Completer.use_jedi = False  # it knows nothing of complete_object
    config.Completer.evaluation = "unsafe"  # or no object with a __getattribute__ of its own is looked into
    for cls in (ConnectionBase, PersistentBase):
        complete_object.register(cls, _for_applications)
    app: Any = TerminalIPythonApp.instance(user_ns=names, config=config)  # Any: IPython has few types
    app.initialize([])
    sys.modules.pop(CONSOLE, None)  # what is defined here must not be found by pickle [CMD-35]
    app.shell.set_custom_exc((DurusError,), _show_in_one_line)
    end = app.shell.ask_exit

    def end_if_allowed() -> None:
        if leaving.is_allowed():
            end()

    app.shell.ask_exit = end_if_allowed  # here, since mainloop() can't be called again when it has returned
    app.shell.mainloop()


def _for_applications(obj: object, names: list[str]) -> list[str]:
    return [name for name in names if is_for_applications(obj, name)]


def _show_in_one_line(
    shell: InteractiveShell,
    error_type: type[DurusError],
    error: DurusError,
    frames: TracebackType | None,
    tb_offset: int | None = None,
) -> list[str]:
    keep_as_last(error)
    print(one_line(error), file=sys.stderr)
    return []
