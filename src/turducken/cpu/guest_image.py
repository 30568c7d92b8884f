"""The registers of the guest-state area, between the VMCS and the engine.

They seldom change from one VM exit or entry to the next: what loading one content of the area makes
of the registers is remembered, and an area that holds them already is not written again. RIP, RSP,
RFLAGS, CR3 and IA32_SYSENTER_CS are apart: most of those always change.
"""

from typing import TYPE_CHECKING, NamedTuple

from turducken.arch.registers import CR0, CR3, EFER, RFLAGS
from turducken.cpu.engine import SegmentIndex, State
from turducken.cpu.engine.state import MSR_WORDS
from turducken.cpu.guest_controls import Entry, Exit, GuestControls
from turducken.cpu.segment_copies import load_segments, save_segments
from turducken.vmx import vmcs_fields as f
from turducken.vmx.vmcs import Vmcs

if TYPE_CHECKING:
    from turducken.cpu.processor import Processor

_PG = CR0.mask("PG")
_CR0_KEPT = ~CR0.mask("PE", "MP", "EM", "TS", "NE", "WP", "AM", "PG") & 0xFFFF_FFFF
_CR3_LOADED = ~CR3.mask("KEEP")
_LMA, _LME = EFER.mask("LMA"), EFER.mask("LME")
_VM = RFLAGS.mask("VM")
_SYSENTER_CS, _SYSENTER_ESP, _SYSENTER_EIP = (MSR_WORDS[n] for n in (0x174, 0x175, 0x176))
_REMEMBERED = 256
_AREA = range(f.GUEST_REGISTER_SLOTS.start, f.GUEST_SEGMENT_SLOTS.stop)
_RSP, _RIP, _RFLAGS, _CR3, _CS_MSR = (
    one.slot for one in (f.GUEST_RSP, f.GUEST_RIP, f.GUEST_RFLAGS, f.GUEST_CR3, f.GUEST_SYSENTER_CS)
)


class GuestImage(NamedTuple):
    """What loading one content of the area makes of the registers. None: the register stays."""

    system: bytes
    cr4: int
    efer: int
    mode: int
    sysenter: tuple[int, int]
    debug: tuple[int, int] | None
    pat: int | None
    perf_global_ctrl: int | None


Saved = tuple[object, ...]
"""Registers that were saved, and the area's content since then."""


def load_registers(p: "Processor", vmcs: Vmcs, guest: GuestControls) -> None:
    """SDM 3C, "Loading Guest State": the registers (and the CPL, which is the DPL of SS)."""
    state, slots, controls = p.state, vmcs.slots, guest.entry
    flags = slots[_RFLAGS]
    state.rflags = flags
    key = (vmcs.pack(_AREA), controls, state.cr0 & _CR0_KEPT, state.efer, flags & _VM)
    image = p.guest_images.get(key)
    if image is None:
        _load(p, vmcs, controls)
        if len(p.guest_images) >= _REMEMBERED:
            p.guest_images.clear()
        p.guest_images[key] = _image_of(p, controls)
    else:
        _load_image(p, image)
    state.cr3 = slots[_CR3] & _CR3_LOADED
    words = state.words
    words[_SYSENTER_CS] = slots[_CS_MSR]
    state.gpr[4], state.rip = slots[_RSP], slots[_RIP]


def _load_image(p: "Processor", image: GuestImage) -> None:
    state, msrs = p.state, p.msrs
    state.system_image, state.cr4, state.efer, state.mode_summary, sysenter, debug, pat, perf = (
        image
    )
    words = state.words
    words[_SYSENTER_ESP], words[_SYSENTER_EIP] = sysenter
    if debug is not None:
        p.dr[7], msrs.debugctl = debug
    if pat is not None:
        msrs.pat = pat
    if perf is not None:
        msrs.perf_global_ctrl = perf


def _image_of(p: "Processor", controls: int) -> GuestImage:
    state, msrs = p.state, p.msrs
    loads_debug = controls & Entry.LOAD_DEBUG_CONTROLS
    return GuestImage(
        state.system_image,
        state.cr4,
        state.efer,
        state.mode_summary,
        (state.words[_SYSENTER_ESP], state.words[_SYSENTER_EIP]),
        (p.dr[7], msrs.debugctl) if loads_debug else None,
        msrs.pat if controls & Entry.LOAD_PAT else None,
        msrs.perf_global_ctrl if controls & Entry.LOAD_PERF_GLOBAL_CTRL else None,
    )


def _load(p: "Processor", vmcs: Vmcs, controls: int) -> None:
    state, slots = p.state, vmcs.slots
    state.cr0 = slots[f.GUEST_CR0.slot] & ~_CR0_KEPT | state.cr0 & _CR0_KEPT
    state.cr4 = slots[f.GUEST_CR4.slot]
    if controls & Entry.LOAD_DEBUG_CONTROLS:
        p.dr[7] = slots[f.GUEST_DR7.slot] & 0xFFFF_2FFF | 0x400
        p.msrs.debugctl = slots[f.GUEST_DEBUGCTL.slot]
    state.words[_SYSENTER_ESP] = slots[f.GUEST_SYSENTER_ESP.slot]
    state.words[_SYSENTER_EIP] = slots[f.GUEST_SYSENTER_EIP.slot]
    state.efer = _loaded_efer(state, vmcs, controls)
    if controls & Entry.LOAD_PAT:
        p.msrs.pat = slots[f.GUEST_PAT.slot]
    if controls & Entry.LOAD_PERF_GLOBAL_CTRL:
        p.msrs.perf_global_ctrl = slots[f.GUEST_PERF_GLOBAL_CTRL.slot]
    load_segments(state, vmcs)
    for index, base, limit in (
        (SegmentIndex.GDTR, f.GUEST_GDTR_BASE, f.GUEST_GDTR_LIMIT),
        (SegmentIndex.IDTR, f.GUEST_IDTR_BASE, f.GUEST_IDTR_LIMIT),
    ):
        state.set_table(index, slots[base.slot], slots[limit.slot])
    # "CPL is the DPL of SS" - also in virtual-8086 mode, where it is 3.
    state.in_shadow = False
    state.update_mode(slots[f.GUEST_SS_ACCESS_RIGHTS.slot] >> 5 & 3)


def _loaded_efer(state: State, vmcs: Vmcs, controls: int) -> int:
    if controls & Entry.LOAD_EFER:
        return vmcs.slots[f.GUEST_EFER.slot]
    efer = state.efer & ~_LMA
    efer |= _LMA if controls & Entry.IA32E_MODE_GUEST else 0
    if state.cr0 & _PG:
        efer = efer & ~_LME | (_LME if efer & _LMA else 0)
    return efer


def save_registers(p: "Processor", vmcs: Vmcs, guest: GuestControls) -> None:
    """SDM 3C, "Saving Guest State": the registers."""
    state, slots, words, msrs = p.state, vmcs.slots, p.state.words, p.msrs
    slots[_CR3] = state.cr3
    slots[_RSP], slots[_RIP] = state.gpr[4], state.rip
    slots[_RFLAGS] = state.rflags
    slots[_CS_MSR] = words[_SYSENTER_CS] & 0xFFFF_FFFF
    registers = (
        guest.exit,
        state.system_image,
        state.cr4,
        state.efer,
        state.cpl,
        words[_SYSENTER_ESP],
        words[_SYSENTER_EIP],
        p.dr[7],
        msrs.debugctl,
        msrs.pat,
    )
    if p.saved_guests.get(vmcs.region) == (registers, vmcs.pack(_AREA)):
        return
    _save(p, vmcs, guest.exit)
    if len(p.saved_guests) >= _REMEMBERED:
        p.saved_guests.clear()
    p.saved_guests[vmcs.region] = (registers, vmcs.pack(_AREA))


def _save(p: "Processor", vmcs: Vmcs, controls: int) -> None:
    state, slots = p.state, vmcs.slots
    slots[f.GUEST_CR0.slot], slots[f.GUEST_CR4.slot] = state.cr0, state.cr4
    slots[f.GUEST_SYSENTER_ESP.slot] = state.words[_SYSENTER_ESP]
    slots[f.GUEST_SYSENTER_EIP.slot] = state.words[_SYSENTER_EIP]
    if controls & Exit.SAVE_DEBUG_CONTROLS:
        slots[f.GUEST_DR7.slot] = p.dr[7]
        slots[f.GUEST_DEBUGCTL.slot] = p.msrs.debugctl
    if controls & Exit.SAVE_PAT:
        slots[f.GUEST_PAT.slot] = p.msrs.pat
    if controls & Exit.SAVE_EFER:
        slots[f.GUEST_EFER.slot] = state.efer
    save_segments(state, vmcs)
    slots[f.GUEST_GDTR_BASE.slot], slots[f.GUEST_GDTR_LIMIT.slot] = state.table(SegmentIndex.GDTR)
    slots[f.GUEST_IDTR_BASE.slot], slots[f.GUEST_IDTR_LIMIT.slot] = state.table(SegmentIndex.IDTR)
