"""What a decoded value means for the processor: misconfigured, refused, or what it stands for."""

from collections.abc import Iterator

from turducken.arch.exceptions import Vector
from turducken.arch.memory_types import EPT_MEMORY_TYPES, MemoryType
from turducken.bits import Layout
from turducken.inspect import vmx_kinds
from turducken.paging import entries as e
from turducken.vmx import exit_information as i
from turducken.vmx.vmcs_fields import FIELDS, HIGH

_R, _W, _X, _XU = (e.EPT_PTE.mask(one) for one in ("R", "W", "X", "XU"))
_MISCONFIGURED = 'SDM 3C, "EPT Misconfigurations"'
_SYSTEM_TYPES = {
    1: "16-bit TSS, available",
    2: "LDT",
    3: "16-bit TSS, busy",
    9: "TSS (32-bit or 64-bit), available",
    11: "TSS (32-bit or 64-bit), busy",
}


def notes_on(kind: str, value: int, layout: Layout, maxphyaddr: int) -> Iterator[str]:
    """Yield sentences about ``value``, decoded by ``layout`` as ``kind``."""
    if kind.startswith("ept."):
        yield from _ept_entry(value, layout, maxphyaddr)
    elif kind == "eptp":
        yield from _eptp(value, maxphyaddr)
    elif kind == "access-rights":
        yield from _access_rights(value)
    elif kind == "vmcs-encoding":
        field = FIELDS.get(value & ~HIGH)
        yield field.name if field is not None else "no field that we know has this encoding"
    elif kind in vmx_kinds.CONTROLS:
        yield from _controls(kind, value)
    elif kind.startswith("interruption."):
        yield _event(value)


def _event(value: int) -> str:
    if not value & i.INTERRUPTION_VALID:
        return "not valid: there is no event"
    vector, kind = value & i.INTERRUPTION_VECTOR, i.INTERRUPTION_TYPE.get(value)
    if kind == i.EventType.EXTERNAL_INTERRUPT:
        return f"external interrupt {vector}"
    if kind == i.EventType.SOFTWARE_INTERRUPT:
        return f"INT {vector:#x}"
    name = f"#{Vector(vector).name}" if vector in set(Vector) else f"exception {vector}"
    return "an event that is no interrupt" if kind == i.EventType.OTHER_EVENT else name


def _beyond(maxphyaddr: int) -> int:
    """Return address bits that a processor with fewer does not have."""
    return e.EP4TA_MASK & ~((1 << maxphyaddr) - 1)


def _ept_entry(value: int, layout: Layout, maxphyaddr: int) -> Iterator[str]:
    if not value & (_R | _W | _X):
        yield "not present (unless XU is set and mode-based execute control is 1): an EPT violation"
        return
    reasons = []
    if value & _W and not value & _R:
        reasons.append("writable but not readable")
    wrong = value & (layout.reserved_mask | _beyond(maxphyaddr))
    if wrong:
        places = ", ".join(str(place) for place in range(64) if wrong >> place & 1)
        reasons.append(f"reserved bits are set: {places}")
    if "MT" in layout and layout["MT"].get(value) not in EPT_MEMORY_TYPES:
        reasons.append(f"memory type {layout['MT'].get(value)} is reserved")
    if reasons:
        yield f"misconfigured: {'; '.join(reasons)} ({_MISCONFIGURED})"
    elif not value & _R:
        yield (
            "misconfigured on a processor without execute-only translations: executable but not "
            f"readable ({_MISCONFIGURED})"
        )
    else:
        yield "well-formed"


def _eptp(value: int, maxphyaddr: int) -> Iterator[str]:
    reasons = []
    if e.EPTP["MT"].get(value) not in (MemoryType.UC, MemoryType.WB):
        reasons.append("the memory type is neither UC (0) nor WB (6)")
    if e.EPTP["WALK"].get(value) not in (3, 4):
        reasons.append("the page-walk length is neither 4 (3) nor 5 (4)")
    wrong = value & (e.EPTP.reserved_mask | _beyond(maxphyaddr))
    if wrong:
        places = ", ".join(str(place) for place in range(64) if wrong >> place & 1)
        reasons.append(f"reserved bits are set: {places}")
    if reasons:
        yield f'VM entry refuses it: {"; ".join(reasons)} (SDM 3C, "VM-Execution Control Fields")'
    else:
        yield "VM entry accepts it, if the processor has what it asks for"


def _access_rights(value: int) -> Iterator[str]:
    rights, kind = i.ACCESS_RIGHTS, i.ACCESS_RIGHTS["TYPE"].get(value)
    if rights["UNUSABLE"].get(value):
        yield "unusable: the other bits do not count"
        return
    if not rights["S"].get(value):
        yield _SYSTEM_TYPES.get(kind, f"system type {kind}: not one of a guest's LDTR or TR")
        return
    accessed = ", accessed" if kind & 1 else ", not accessed (VM entry refuses it)"
    if kind & 8:
        text = "code, execute/read" if kind & 2 else "code, execute-only"
        yield text + (", conforming" if kind & 4 else "") + accessed
    else:
        text = "data, read/write" if kind & 2 else "data, read-only"
        yield text + (", expand-down" if kind & 4 else "") + accessed


def _controls(kind: str, value: int) -> Iterator[str]:
    controls = vmx_kinds.CONTROLS[kind]
    missing = controls.default1 & ~value
    if missing:
        places = ", ".join(str(place) for place in range(64) if missing >> place & 1)
        yield (
            f"default1 bits that are 0: {places} (VM entry refuses that unless the TRUE capability "
            "MSR lets them be 0)"
        )
    unknown = value & controls.layout.reserved_mask & ~controls.default1
    if unknown:
        places = ", ".join(str(place) for place in range(64) if unknown >> place & 1)
        yield f"bits without a name that are 1: {places} (VM entry refuses them)"
