"""The host state of a VMCS as the engine will hold it, worked out once per content.

SDM 3C, "Loading Host State": selectors are loaded, bases, limits and access rights of most segments
are what the manual fixes.
"""

from typing import TYPE_CHECKING, NamedTuple

from turducken.arch.registers import CR0, CR4, EFER
from turducken.cpu.engine import Segment, SegmentIndex, State
from turducken.cpu.engine.segments import UNUSABLE
from turducken.cpu.engine.state import MSR_WORDS
from turducken.cpu.guest_controls import Exit
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

# "CR0: the following bits are not modified": reserved ones, ET, NW, CD.
_CR0_KEPT = CR0.mask("ET", "NW", "CD")
_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))
_PAE, _PCIDE = CR4.mask("PAE"), CR4.mask("PCIDE")
_LONG = EFER.mask("LMA", "LME")
_REMEMBERED = 64


class HostImage(NamedTuple):
    """What loading one host-state area makes of the registers. None: the register stays."""

    system: bytes
    cr3: int
    cr4: int
    efer: int
    mode: int
    pat: int | None
    perf_global_ctrl: int | None
    sysenter: tuple[int, int, int]
    rsp: int
    rip: int


def load_host_registers(p: "Processor", vmcs: Vmcs, controls: int) -> None:
    """Load the registers from the host-state area under the VM-exit controls ``controls``."""
    state, msrs = p.state, p.msrs
    state.rflags = 2
    p.dr[7] = 0x400
    msrs.debugctl = 0
    key = (controls, vmcs.pack(f.HOST_SLOTS), state.cr0 & _CR0_KEPT, state.efer)
    image = p.host_images.get(key)
    if image is None:
        if len(p.host_images) >= _REMEMBERED:
            p.host_images.clear()
        image = p.host_images[key] = _make(p, vmcs, controls)
    system, state.cr3, state.cr4, state.efer, mode, pat, perf, sysenter, rsp, rip = image
    state.system_image, state.mode_summary = system, mode
    words = state.words
    words[_SYSENTER_CS], words[_SYSENTER_ESP], words[_SYSENTER_EIP] = sysenter
    state.gpr[4], state.rip = rsp, rip
    if pat is not None:
        msrs.pat = pat
    if perf is not None:
        msrs.perf_global_ctrl = perf


def _make(p: "Processor", vmcs: Vmcs, controls: int) -> HostImage:
    """Load what the engine holds in forms of its own, and take it from there."""
    state, read = p.state, vmcs.read
    is_long = bool(controls & Exit.HOST_ADDRESS_SPACE_SIZE)
    cr4 = read(f.HOST_CR4)
    state.cr0 = read(f.HOST_CR0) & ~_CR0_KEPT | state.cr0 & _CR0_KEPT
    state.cr4 = cr4 | _PAE if is_long else cr4 & ~_PCIDE
    state.efer = (
        read(f.HOST_EFER)
        if controls & Exit.LOAD_EFER
        else state.efer & ~_LONG | (_LONG if is_long else 0)
    )
    _load_segments(state, vmcs, is_long=is_long)
    state.set_table(SegmentIndex.GDTR, read(f.HOST_GDTR_BASE), 0xFFFF)
    state.set_table(SegmentIndex.IDTR, read(f.HOST_IDTR_BASE), 0xFFFF)
    state.in_shadow = False
    state.update_mode(0)
    loads_perf = controls & Exit.LOAD_PERF_GLOBAL_CTRL
    return HostImage(
        system=state.system_image,
        cr3=read(f.HOST_CR3),
        cr4=state.cr4,
        efer=state.efer,
        mode=state.mode_summary,
        pat=read(f.HOST_PAT) if controls & Exit.LOAD_PAT else None,
        perf_global_ctrl=read(f.HOST_PERF_GLOBAL_CTRL) if loads_perf else None,
        sysenter=(
            read(f.HOST_SYSENTER_CS),
            read(f.HOST_SYSENTER_ESP),
            read(f.HOST_SYSENTER_EIP),
        ),
        rsp=read(f.HOST_RSP),
        rip=read(f.HOST_RIP),
    )


def _load_segments(state: State, vmcs: Vmcs, *, is_long: bool) -> None:
    read = vmcs.read
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
