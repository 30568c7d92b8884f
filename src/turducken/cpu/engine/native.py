"""Functions that the engine calls very often, generated at run time.

Where generation is not possible, the caller does the same in Python, slower.
"""

from typing import Any

_generated: dict[str, tuple[int, Any] | None] = {}


def generate(name: str, code: str) -> int | None:
    """Return the address of the function ``name`` of LLVM assembly ``code``; None: impossible."""
    if name not in _generated:
        _generated[name] = _compile(name, code)
    found = _generated[name]
    return None if found is None else found[0]


def _compile(name: str, code: str) -> tuple[int, Any] | None:
    try:
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        machine = binding.Target.from_default_triple().create_target_machine(opt=2)
        compiled = binding.create_mcjit_compiler(binding.parse_assembly(code), machine)
        compiled.finalize_object()
    except (ImportError, OSError, RuntimeError):
        return None
    return compiled.get_function_address(name), compiled
