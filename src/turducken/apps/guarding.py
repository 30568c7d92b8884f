"""A user's application, with its own mistakes told as the user's: one line, not our traceback."""

import traceback
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Literal

from turducken.address import Gpa1
from turducken.apps.errors import AppError
from turducken.hypervisor import Hypapp, HypervisorError
from turducken.hypervisor.hypapp import Cpuid
from turducken.vmx.interface import Wait

if TYPE_CHECKING:
    from turducken.hypervisor import Hypervisor, Vcpu
    from turducken.hypervisor.vcpu import Handling


_NOT_ITS_OWN = (HypervisorError, BrokenPipeError, AppError)
"""Exceptions that tell their story themselves."""


class Guarded(Hypapp):
    """Passes every hook on to ``app``, which came from ``path``."""

    def __init__(self, app: Hypapp, path: str) -> None:
        self.app = app
        self.name = app.name
        self.ept01_sharing = app.ept01_sharing
        self._path = path

    def on_start(self, hypervisor: "Hypervisor") -> None:
        """See `Hypapp.on_start`."""
        self._call(self.app.on_start, hypervisor)

    def on_hypercall(self, vcpu: "Vcpu") -> "Handling | Literal[False]":
        """See `Hypapp.on_hypercall`."""
        return self._handle(self.app.on_hypercall, vcpu)

    def on_violation(self, vcpu: "Vcpu", gpa1: Gpa1, access: int) -> "Handling | Literal[False]":
        """See `Hypapp.on_violation`."""
        return self._handle(self.app.on_violation, vcpu, gpa1, access)

    def on_cpuid(self, vcpu: "Vcpu", leaf: int, subleaf: int, answer: Cpuid) -> Cpuid:
        """See `Hypapp.on_cpuid`."""
        found = self._call(self.app.on_cpuid, vcpu, leaf, subleaf, answer)
        if not isinstance(found, tuple) or [type(one) for one in found] != [int] * 4:
            raise AppError(f"--app {self._path}: on_cpuid returned {found!r}, not four numbers")
        return found

    def on_nested_entry(self, vcpu: "Vcpu") -> None:
        """See `Hypapp.on_nested_entry`."""
        self._call(self.app.on_nested_entry, vcpu)

    def on_nested_exit(self, vcpu: "Vcpu", reason: int) -> None:
        """See `Hypapp.on_nested_exit`."""
        self._call(self.app.on_nested_exit, vcpu, reason)

    def on_shutdown(self, vcpu: "Vcpu", why: str) -> None:
        """See `Hypapp.on_shutdown`."""
        self._call(self.app.on_shutdown, vcpu, why)

    def _call(self, hook: Callable[..., Any], *arguments: object) -> Any:
        try:
            return hook(*arguments)
        except _NOT_ITS_OWN:
            raise
        except Exception as error:
            raise self._told(hook, error) from error

    def _handle(self, hook: Callable[..., Any], *arguments: object) -> "Handling | Literal[False]":
        found = self._call(hook, *arguments)
        if found is None or found is False:
            return found
        if not isinstance(found, Generator):
            raise AppError(
                f"--app {self._path}: {hook.__name__} returned {found!r},"
                " not False, None or a generator"
            )
        return self._run(hook, found)

    def _run(
        self, hook: Callable[..., Any], handling: Generator[Wait, None, None]
    ) -> Generator[Wait, None, None]:
        try:
            yield from handling
        except _NOT_ITS_OWN:
            raise
        except Exception as error:
            raise self._told(hook, error) from error

    def _told(self, hook: Callable[..., Any], error: Exception) -> AppError:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((one.lineno for one in reversed(frames) if one.filename == self._path), None)
        where = f"line {line}: " if line is not None else ""
        what = f"{type(error).__name__}: {error}"
        return AppError(f"--app {self._path}: {where}{hook.__name__}: {what}")
