"""Classes named by a "module:Class" string in a configuration, imported when they are needed."""

import importlib
import importlib.util


def check_importable(spec: str, key: str) -> None:
    """ValueError (one line, naming `key`) unless the module of "module:Class" exists; imports its parents only."""
    module, separator, name = spec.partition(":")
    if not separator or not module or not name:
        raise ValueError(f'{key}={spec}: expected "module:Class", such as "my_package.my_module:MyClass"')
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError(f"{key}={spec}: there is no module '{module}' here; install it, or name another one")


def load_class(spec: str, key: str) -> type:
    """Import the class of "module:Class"; ValueError (one line, naming `key`) if the module or the class is missing.

    An error inside the module, such as a missing dependency of its own, is not hidden.
    """
    check_importable(spec, key)
    module_name, _, name = spec.partition(":")
    found = getattr(importlib.import_module(module_name), name, None)
    if not isinstance(found, type):
        raise ValueError(f"{key}={spec}: module '{module_name}' has no class '{name}'")
    return found
