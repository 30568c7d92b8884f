"""The host state of a VMCS as the engine will hold it, worked out once per content.

SDM 3C, "Loading Host State": selectors are loaded, bases, limits and access rights of most segments
are what the manual fixes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from turducken.arch.registers import CR4, EFER
from turducken.cpu.engine import Segment, SegmentIndex
from turducken.cpu.engine.state import UNUSABLE
from turducken.cpu.guest_controls import Exit
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_LONG = EFER.mask("LMA", "LME")
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class HostImage:
    """What loading one host-state area makes of the registers. None: the register stays."""

    cr0: int
    cr3: int
    cr4: int
    efer: int | None
    long_bits: int
    pat: int | None
    perf_global_ctrl: int | None
    sysenter: tuple[int, int, int]
    segments: bytes
    gdtr_base: int
    idtr_base: int
    rsp: int
    rip: int


def host_image(p: "Processor", vmcs: Vmcs, controls: int) -> HostImage:
    """Return the image of the host-state area under the VM-exit controls ``controls``."""
    key = (controls, vmcs.pack(f.HOST_SLOTS))
    image = p.host_images.get(key)
    if image is None:
        if len(p.host_images) >= _REMEMBERED:
            p.host_images.clear()
        image = p.host_images[key] = _make(p, vmcs, controls)
    return image


def _make(p: "Processor", vmcs: Vmcs, controls: int) -> HostImage:
    read = vmcs.read
    is_long = bool(controls & Exit.HOST_ADDRESS_SPACE_SIZE)
    cr4 = read(f.HOST_CR4)
    loads_perf = controls & Exit.LOAD_PERF_GLOBAL_CTRL
    return HostImage(
        cr0=read(f.HOST_CR0),
        cr3=read(f.HOST_CR3),
        cr4=cr4 | _PAE if is_long else cr4 & ~_PCIDE,
        efer=read(f.HOST_EFER) if controls & Exit.LOAD_EFER else None,
        long_bits=_LONG if is_long else 0,
        pat=read(f.HOST_PAT) if controls & Exit.LOAD_PAT else None,
        perf_global_ctrl=read(f.HOST_PERF_GLOBAL_CTRL) if loads_perf else None,
        sysenter=(
            read(f.HOST_SYSENTER_CS),
            read(f.HOST_SYSENTER_ESP),
            read(f.HOST_SYSENTER_EIP),
        ),
        segments=_segments(p, vmcs, is_long=is_long),
        gdtr_base=read(f.HOST_GDTR_BASE),
        idtr_base=read(f.HOST_IDTR_BASE),
        rsp=read(f.HOST_RSP),
        rip=read(f.HOST_RIP),
    )


def _segments(p: "Processor", vmcs: Vmcs, *, is_long: bool) -> bytes:
    """Load the segments into the engine's registers, and take them from there."""
    state, read = p.state, vmcs.read
    code = 0xA09B if is_long else 0xC09B
    state.set_segment(SegmentIndex.CS, Segment(read(f.HOST_CS_SELECTOR), 0, 0xFFFF_FFFF, code))
    data = (
        (SegmentIndex.SS, f.HOST_SS_SELECTOR, None),
        (SegmentIndex.DS, f.HOST_DS_SELECTOR, None),
        (SegmentIndex.ES, f.HOST_ES_SELECTOR, None),
        (SegmentIndex.FS, f.HOST_FS_SELECTOR, f.HOST_FS_BASE),
        (SegmentIndex.GS, f.HOST_GS_SELECTOR, f.HOST_GS_BASE),
    )
    for index, selector_field, base_field in data:
        selector = read(selector_field)
        base = read(base_field) if base_field is not None else 0
        access = 0xC093 if selector else UNUSABLE | 0xC093
        state.set_segment(index, Segment(selector, base, 0xFFFF_FFFF, access))
    state.set_segment(SegmentIndex.LDTR, Segment(0, 0, 0, UNUSABLE))
    task = Segment(read(f.HOST_TR_SELECTOR), read(f.HOST_TR_BASE), 0x67, 0x8B)
    state.set_segment(SegmentIndex.TR, task)
    return state.segment_words
