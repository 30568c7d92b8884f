"""XCR0, as XSETBV writes it: SDM 2D, "XSETBV - Set Extended Control Register"."""

X87, SSE, AVX = 1, 2, 4
_LOW = 0xFFFF_FFFF


def operand(rdx: int, rax: int) -> int:
    """Return the value EDX:EAX; the upper halves of RDX and RAX are ignored."""
    return (rdx & _LOW) << 32 | rax & _LOW


def is_accepted(number: int, value: int, supported: int) -> bool:
    """Tell whether XSETBV of register ``number`` (ECX) takes a value; False: #GP.

    ``supported`` is what CPUID.(0DH,0) tells in EDX:EAX.
    """
    if number & _LOW or value & ~supported or not value & X87:
        return False
    return not value & AVX or bool(value & SSE)
