"""Options of applications: ``key=value,key=value``, by a dataclass that declares them.

A field's type says what can be given: ``bool`` (on, off), ``int`` (any of Python's notations),
``str``, or an `Enum` whose values are text. A field without a default has to be given.
"""

from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, get_type_hints

from turducken.apps.errors import AppError

_SWITCH = {"on": True, "off": False}


def parse_options(declared: type | None, text: str, app: str) -> Any:
    """Return an instance of ``declared`` with what ``text`` says (None: no options are taken)."""
    given = _pairs(text, app)
    if declared is None:
        if given:
            raise AppError(f"--app {app}: takes no options, but {next(iter(given))!r} was given")
        return None
    known = {one.name: one for one in fields(declared)}
    for key in given:
        if key not in known:
            raise AppError(
                f"--app {app}: no option {key!r}; there are {', '.join(known) or 'none'}"
            )
    for one in known.values():
        if _is_required(one) and one.name not in given:
            raise AppError(f"--app {app}: the option {one.name!r} must be given")
    kinds = get_type_hints(declared)
    return declared(**{key: _convert(kinds[key], key, given[key], app) for key in given})


def _pairs(text: str, app: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise AppError(f"--app {app}: {part!r} is not of the form key=value")
        if key in given:
            raise AppError(f"--app {app}: the option {key!r} is given twice")
        given[key] = value
    return given


def _is_required(one: Field[Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _convert(kind: type, key: str, text: str, app: str) -> object:
    if kind is bool:
        return _one_of(_SWITCH, key, text, app)
    if kind is int:
        try:
            return int(text, 0)
        except ValueError:
            raise AppError(f"--app {app}: {key}={text}: not a number") from None
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _one_of({str(one.value): one for one in kind}, key, text, app)
    return text


def _one_of(choices: dict[str, Any], key: str, text: str, app: str) -> object:
    if text not in choices:
        raise AppError(f"--app {app}: {key}={text}: not one of {', '.join(choices)}")
    return choices[text]
