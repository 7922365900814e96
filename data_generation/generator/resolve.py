"""Classes named by a "module:Class" string in a configuration, imported when they are needed."""

import importlib
import importlib.util
import os
import sys

from data_generation.data.errors import FieldError


def find_modules_here() -> None:
    """Modules of the folder where the user stands are found from now on, as by `python -m`: after all others."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)


def check_importable(spec: str, field: str) -> None:
    """FieldError of `field` unless the module of "module:Class" exists; imports its parents only."""
    module, separator, name = spec.partition(":")
    if not separator or not module or not name:
        raise FieldError(field, spec, 'expected "module:Class", such as "my_package.my_module:MyClass"')
    find_modules_here()
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise FieldError(field, spec, f"there is no module '{module}' here", "install it, or name another one")


def load_class(spec: str, field: str) -> type:
    """Import the class of "module:Class"; FieldError of `field` if the module or the class is missing.

    An error inside the module, such as a missing dependency of its own, is not hidden.
    """
    check_importable(spec, field)
    module_name, _, name = spec.partition(":")
    found = getattr(importlib.import_module(module_name), name, None)
    if not isinstance(found, type):
        raise FieldError(field, spec, f"module '{module_name}' has no class '{name}'")
    return found
