"""From ``NAME[:OPTIONS]`` to an application: one that comes with turducken, or a user's module."""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from turducken.apps.errors import AppError
from turducken.apps.guarding import Guarded
from turducken.apps.options import parse_options
from turducken.hypervisor import Hypapp

BUILT_IN = {"trustvisor": ("turducken.apps.trustvisor", "TrustVisor")}
"""The applications that come with turducken, by the names that ``--app`` knows: module and class.

The module is imported when its application is asked for.
"""


@dataclass(frozen=True, slots=True)
class AppRequest:
    """An application as a user asked for it, checked: `make` makes a new one for each system."""

    text: str
    make: Callable[[], Hypapp]


def parse_request(text: str) -> AppRequest:
    """Return what ``NAME[:key=value,...]`` asks for; AppError where there is no such thing.

    NAME is one of `BUILT_IN`, or the path of a Python file that defines one `Hypapp`.
    """
    name, _, options = text.partition(":")
    if name in BUILT_IN:
        module, kind = BUILT_IN[name]
        return AppRequest(text, _maker(getattr(import_module(module), kind), options, name))
    if not name.endswith(".py"):
        known = ", ".join(BUILT_IN)
        raise AppError(f"--app {name}: not one of {known}, nor the path of a Python file (.py)")
    make = _maker(_find_app(_load_module(name), name), options, name)
    return AppRequest(text, lambda: Guarded(make(), name))


def load_app(text: str) -> Hypapp:
    """Return a new application as `parse_request` finds it."""
    return parse_request(text).make()


def _maker(kind: type[Hypapp], options: str, name: str) -> Callable[[], Hypapp]:
    parsed = parse_options(kind.Options, options, name)
    arguments: tuple[Any, ...] = () if parsed is None else (parsed,)

    def make() -> Hypapp:
        try:
            return kind(*arguments)
        except Exception as error:
            raise AppError(f"--app {name}: {kind.__name__}(): {describe(error)}") from None

    make()  # what is wrong with it is to be known before anything runs
    return make


def describe(error: Exception) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {error}"


def _load_module(path: str) -> ModuleType:
    if not Path(path).is_file():
        raise AppError(f"--app {path}: no such file")
    spec = importlib.util.spec_from_file_location(f"turducken_app_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise AppError(f"--app {path}: cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise AppError(f"--app {path}: {describe(error)}") from None
    return module


def _find_app(module: ModuleType, path: str) -> type[Hypapp]:
    found = [
        one
        for one in vars(module).values()
        if inspect.isclass(one) and issubclass(one, Hypapp) and one.__module__ == module.__name__
    ]
    if len(found) != 1:
        what = "no class" if not found else "more than one class"
        raise AppError(f"--app {path}: defines {what} that derives from Hypapp")
    return found[0]
