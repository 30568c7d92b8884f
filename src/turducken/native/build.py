"""Compiling a unit of native functions, once per version of their source.

The result is machine code without any reference to an address, so that it is kept in a file, and a
later process maps it without starting a compiler. Where no code can be made or mapped, the same
functions are called as the Python that they are.
"""

import ctypes
import hashlib
import json
import mmap
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from turducken.native.records import Record, signature_of

_KEPT: list[object] = []
"""Code that is mapped stays mapped."""


_Function = TypeVar("_Function", bound=Callable[..., Any])


class Unit:
    """Functions that are compiled together, and may call each other.

    They are compiled when the first of them is asked for; all must be registered by then.
    """

    def __init__(self) -> None:
        self._functions: list[Callable[..., Any]] = []
        self._exported: list[str] = []
        self._addresses: dict[str, int] | None = None
        self._is_tried = False

    def compiled(self, function: _Function) -> _Function:
        """Register a function that others call (a decorator)."""
        assert not self._is_tried, "the unit has been compiled"
        self._functions.append(function)
        return function

    def exported(self, function: _Function) -> _Function:
        """Register a function that C calls, by its `hook` (a decorator)."""
        self._exported.append(function.__name__)
        return self.compiled(function)

    @property
    def is_native(self) -> bool:
        """There is compiled code."""
        if not self._is_tried:
            self._is_tried = True
            self._addresses = _code(self._functions, self._exported)
        return self._addresses is not None

    def hook(self, function: Callable[..., Any], *, native: bool) -> Any:
        """Return a function that C can call: the compiled one, if there is one and ``native``."""
        kind = prototype(function)
        if native and self.is_native:
            assert self._addresses is not None
            return kind(self._addresses[function.__name__])
        return kind(_received(function))


def prototype(function: Callable[..., Any]) -> Any:
    """Return the ctypes type of a function."""
    signature = signature_of(function)
    return ctypes.CFUNCTYPE(
        ctypes.c_bool if signature.result is bool else signature.result,
        *(_passed(one) for one in signature.parameters.values()),
    )


def _passed(kind: Any) -> Any:
    if kind is bool:
        return ctypes.c_bool
    return ctypes.c_uint64 if issubclass(kind, Record) else kind


def _received(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its records given by their addresses."""
    kinds = list(signature_of(function).parameters.values())

    def call(*values: int) -> Any:
        return function(
            *(
                kind.at(value) if isinstance(kind, type) and issubclass(kind, Record) else value
                for kind, value in zip(kinds, values, strict=True)
            )
        )

    return call


def _code(
    functions: Sequence[Callable[..., Any]], exported: Sequence[str]
) -> dict[str, int] | None:
    """Return where the functions are; None where they cannot be."""
    place = _place(functions)
    try:
        return _mapped(place) or _compiled(functions, exported, place)
    except (ImportError, OSError, RuntimeError):
        return None


def _place(functions: Sequence[Callable[..., Any]]) -> Path:
    """Return the file for the code of these sources on this kind of processor.

    What a function is also depends on records and constants of other modules: those of its package
    count as its source.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{sys.implementation.cache_tag} {platform.machine()}".encode())
    folders = {Path(one.__code__.co_filename).parent for one in functions}
    for folder in sorted({Path(__file__).parent, *folders}):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "turducken" / f"{digest.hexdigest()}.code"


def _mapped(place: Path) -> dict[str, int] | None:
    """Map code that was kept; None where there is none, or not what was written."""
    try:
        head, _, code = place.read_bytes().partition(b"\n")
        kept = json.loads(head)
        if kept["digest"] != hashlib.blake2b(code).hexdigest():
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _map(code, kept["offsets"])


def _map(code: bytes, offsets: dict[str, int]) -> dict[str, int]:
    pages = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    pages.write(code)
    begin = ctypes.c_char.from_buffer(pages)
    _KEPT.append(begin)
    return {name: ctypes.addressof(begin) + offset for name, offset in offsets.items()}


def _compiled(
    functions: Sequence[Callable[..., Any]], exported: Sequence[str], place: Path
) -> dict[str, int] | None:
    """Compile, and keep the code in the file ``place`` if it may be written."""
    from llvmlite import binding

    from turducken.native.translate import translate

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel="small")
    module = binding.parse_assembly(translate(functions, exported))
    _optimize(binding, module, machine)
    image = binding.ObjectFileRef.from_data(machine.emit_object(module))
    sections = {one.name(): bytes(one.data()) for one in image.sections() if one.size()}
    if b".rela.text" in sections:
        return None  # it names addresses, which would have to be filled in
    code = sections[b".text"]
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    _KEPT.append(engine)
    addresses = {name: engine.get_function_address(name) for name in exported}
    first = min(addresses.values())
    offsets = {name: address - first for name, address in addresses.items()}
    _keep(place, code, offsets)
    return _map(code, offsets)


def _optimize(binding: Any, module: Any, machine: Any) -> None:
    """Run LLVM's usual passes, by the interface that this llvmlite has."""
    if hasattr(binding, "create_pass_builder"):
        options = binding.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = False
        passes = binding.create_pass_builder(machine, options)
        passes.getModulePassManager().run(module, passes)
        return
    builder = binding.PassManagerBuilder()
    builder.opt_level = 2
    manager = binding.ModulePassManager()
    builder.populate(manager)
    manager.run(module)


def _keep(place: Path, code: bytes, offsets: dict[str, int]) -> None:
    """Write the file in one step, so that nobody reads half of it; without it, all works too."""
    head = {"offsets": offsets, "digest": hashlib.blake2b(code).hexdigest()}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            file.write(json.dumps(head).encode() + b"\n" + code)
        os.replace(file.name, place)
    except OSError:
        pass
