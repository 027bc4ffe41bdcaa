"""What names in pickles of Python 2 are called in Python 3."""

from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # what pickle itself uses


def present_name(module: str, qualname: str) -> tuple[str, str]:
    """Return the module and the name in Python 3, for a pickle of protocols 0 to 2."""
    module, qualname = NAME_MAPPING.get((module, qualname), (module, qualname))
    return IMPORT_MAPPING.get(module, module), qualname
