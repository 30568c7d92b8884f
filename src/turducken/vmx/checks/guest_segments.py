"""Checks on guest segment registers: SDM 3C, "Checks on Guest Segment Registers"."""

from collections.abc import Iterator

from turducken.arch.registers import CR0, RFLAGS
from turducken.vmx import vmcs_fields as f
from turducken.vmx.checks.rules import Check, EntryContext, Rule, Section
from turducken.vmx.exit_information import ACCESS_RIGHTS, UNUSABLE
from turducken.vmx.vmcs_fields import GUEST_SEGMENTS, SegmentFields

_SECTION = Section("guest.segments", 'SDM 3C, "Checks on Guest Segment Registers"')

_TYPE, _DPL = ACCESS_RIGHTS["TYPE"], ACCESS_RIGHTS["DPL"]
_S, _P, _L = ACCESS_RIGHTS.mask("S"), ACCESS_RIGHTS.mask("P"), ACCESS_RIGHTS.mask("L")
_DB, _G = ACCESS_RIGHTS.mask("D/B"), ACCESS_RIGHTS.mask("G")
_RESERVED_LOW = ACCESS_RIGHTS["reserved 11:8"].mask
_RESERVED_HIGH = ACCESS_RIGHTS["reserved 31:17"].mask
_VM, _PE = RFLAGS.mask("VM"), CR0.mask("PE")
_RPL, _TI = 3, 4
_RIGHTS_8086, _LIMIT_8086 = 0xF3, 0xFFFF

_ACCESSED, _READABLE, _CODE = 1, 2, 8
_DATA_RW, _DATA_RW_DOWN = 3, 7
_NON_CONFORMING, _CONFORMING = (9, 11), (13, 15)
_LDT, _TSS_16, _TSS_32 = 2, 3, 11

_ES, _CS, _SS, _DS, _FS, _GS, _LDTR, _TR = GUEST_SEGMENTS
_CODE_AND_DATA = (_CS, _SS, _DS, _ES, _FS, _GS)
_DATA = (_DS, _ES, _FS, _GS)


def _is_8086(c: EntryContext) -> bool:
    return bool(c[f.GUEST_RFLAGS] & _VM)


def _type_of(c: EntryContext, segment: SegmentFields) -> int:
    return _TYPE.get(c[segment.access_rights])


def _dpl_of(c: EntryContext, segment: SegmentFields) -> int:
    return _DPL.get(c[segment.access_rights])


def _is_usable(c: EntryContext, segment: SegmentFields) -> bool:
    return not c[segment.access_rights] & UNUSABLE


def _in_8086(check: Check) -> Check:
    return lambda c: not _is_8086(c) or check(c)


def _outside_8086(check: Check) -> Check:
    return lambda c: _is_8086(c) or check(c)


def _if_usable(segment: SegmentFields, check: Check) -> Check:
    """Apply a rule if the register is usable; CS and TR have no such exception."""
    if segment in (_CS, _TR):
        return check
    return lambda c: not _is_usable(c, segment) or check(c)


def _granularity_fits(segment: SegmentFields) -> Check:
    """G is 0 if any of limit bits 11:0 is 0, and 1 if any of bits 31:20 is 1."""

    def fits(c: EntryContext) -> bool:
        limit = c[segment.limit]
        if c[segment.access_rights] & _G:
            return limit & 0xFFF == 0xFFF
        return not limit >> 20

    return fits


def _has_rights(segment: SegmentFields, bits: int) -> Check:
    return lambda c: bool(c[segment.access_rights] & bits)


def _lacks_rights(segment: SegmentFields, bits: int) -> Check:
    return lambda c: not c[segment.access_rights] & bits


# Selectors, bases and limits


def _is_canonical(segment: SegmentFields) -> Check:
    return lambda c: c.is_canonical(segment.base)


def _has_32bit_base(segment: SegmentFields) -> Check:
    return lambda c: not c[segment.base] >> 32


def _has_8086_base(segment: SegmentFields) -> Check:
    return lambda c: c[segment.base] == c[segment.selector] << 4


def _rpls_match(c: EntryContext) -> bool:
    if c.is_unrestricted:
        return True
    return not (c[f.GUEST_SS_SELECTOR] ^ c[f.GUEST_CS_SELECTOR]) & _RPL


def _address_rules() -> Iterator[Rule]:
    rule = _SECTION.rule
    yield rule("tr-selector", "TR selector: TI must be 0", lambda c: not c[_TR.selector] & _TI)
    yield rule(
        "ldtr-selector",
        "LDTR selector, if usable: TI must be 0",
        _if_usable(_LDTR, lambda c: not c[_LDTR.selector] & _TI),
    )
    yield rule(
        "ss-selector",
        "SS selector outside virtual-8086 mode, not unrestricted: RPL must equal that of CS",
        _outside_8086(_rpls_match),
    )
    for segment in _CODE_AND_DATA:
        text = f"{segment.name} base in virtual-8086 mode: the selector shifted left 4 bits"
        name = f"{segment.name.lower()}-base-8086"
        yield rule(name, text, _in_8086(_has_8086_base(segment)))
    for segment in (_TR, _FS, _GS):
        text = f"{segment.name} base must be canonical"
        yield rule(f"{segment.name.lower()}-base", text, _is_canonical(segment))
    yield rule(
        "ldtr-base",
        "LDTR base, if usable, must be canonical",
        _if_usable(_LDTR, _is_canonical(_LDTR)),
    )
    for segment in (_CS, _SS, _DS, _ES):
        text = f"{segment.name} base: bits 63:32 must be 0 (SS, DS, ES: if usable)"
        name = f"{segment.name.lower()}-base"
        yield rule(name, text, _if_usable(segment, _has_32bit_base(segment)))
    for segment in _CODE_AND_DATA:
        text = f"{segment.name} limit in virtual-8086 mode must be FFFFH"
        name = f"{segment.name.lower()}-limit-8086"
        yield rule(name, text, _in_8086(_has_8086_limit(segment)))


def _has_8086_limit(segment: SegmentFields) -> Check:
    return lambda c: c[segment.limit] == _LIMIT_8086


# Access rights of CS, SS, DS, ES, FS and GS


def _has_8086_rights(segment: SegmentFields) -> Check:
    return lambda c: c[segment.access_rights] == _RIGHTS_8086


def _cs_type_is_valid(c: EntryContext) -> bool:
    kind = _type_of(c, _CS)
    return kind in _NON_CONFORMING + _CONFORMING or (c.is_unrestricted and kind == _DATA_RW)


def _ss_type_is_valid(c: EntryContext) -> bool:
    return _type_of(c, _SS) in (_DATA_RW, _DATA_RW_DOWN)


def _data_type_is_valid(segment: SegmentFields) -> Check:
    def is_valid(c: EntryContext) -> bool:
        kind = _type_of(c, segment)
        return bool(kind & _ACCESSED) and (not kind & _CODE or bool(kind & _READABLE))

    return is_valid


def _cs_dpl_is_valid(c: EntryContext) -> bool:
    kind, dpl, ss_dpl = _type_of(c, _CS), _dpl_of(c, _CS), _dpl_of(c, _SS)
    if kind == _DATA_RW:
        return dpl == 0
    if kind in _NON_CONFORMING:
        return dpl == ss_dpl
    return kind not in _CONFORMING or dpl <= ss_dpl


def _ss_dpl_is_rpl(c: EntryContext) -> bool:
    return c.is_unrestricted or _dpl_of(c, _SS) == c[f.GUEST_SS_SELECTOR] & _RPL


def _ss_dpl_is_0(c: EntryContext) -> bool:
    """SS.DPL must be 0 if CS has type 3, or if CR0.PE is 0."""
    needed = _type_of(c, _CS) == _DATA_RW or not c[f.GUEST_CR0] & _PE
    return not needed or _dpl_of(c, _SS) == 0


def _data_dpl_is_valid(segment: SegmentFields) -> Check:
    """DPL is not less than RPL for types 0 to 11, unless unrestricted or unusable."""

    def is_valid(c: EntryContext) -> bool:
        if c.is_unrestricted or _type_of(c, segment) > _NON_CONFORMING[-1]:
            return True
        return _dpl_of(c, segment) >= c[segment.selector] & _RPL

    return is_valid


def _cs_size_is_valid(c: EntryContext) -> bool:
    rights = c[_CS.access_rights]
    return not (c.is_ia32e_guest and rights & _L and rights & _DB)


def _type_rules() -> Iterator[Rule]:
    rule = _SECTION.rule
    text = "CS type must be 9, 11, 13 or 15 (or 3, in an unrestricted guest)"
    yield rule("cs-type", text, _outside_8086(_cs_type_is_valid))
    text = "SS type, if usable, must be 3 or 7"
    yield rule("ss-type", text, _outside_8086(_if_usable(_SS, _ss_type_is_valid)))
    for segment in _DATA:
        text = f"{segment.name} type, if usable: accessed, and readable if code"
        check = _if_usable(segment, _data_type_is_valid(segment))
        yield rule(f"{segment.name.lower()}-type", text, _outside_8086(check))
    text = "CS DPL: 0 for type 3; that of SS for types 9 and 11; no more for 13 and 15"
    yield rule("cs-dpl", text, _outside_8086(_cs_dpl_is_valid))
    text = "SS DPL must equal its selector's RPL, unless unrestricted"
    yield rule("ss-dpl", text, _outside_8086(_ss_dpl_is_rpl))
    text = "SS DPL must be 0 if the type of CS is 3 or CR0.PE is 0"
    yield rule("ss-dpl-0", text, _outside_8086(_ss_dpl_is_0))
    for segment in _DATA:
        text = f"{segment.name} DPL cannot be less than its selector's RPL (types 0 to 11)"
        check = _if_usable(segment, _data_dpl_is_valid(segment))
        yield rule(f"{segment.name.lower()}-dpl", text, _outside_8086(check))


def _bit_rules(segment: SegmentFields) -> Iterator[Rule]:
    """The rules that CS, SS, DS, ES, FS and GS share: "if usable" but for CS."""

    def rule(name: str, text: str, check: Check) -> Rule:
        guarded = _outside_8086(_if_usable(segment, check))
        return _SECTION.rule(f"{segment.name.lower()}-{name}", f"{segment.name}: {text}", guarded)

    yield rule("s", "S must be 1", _has_rights(segment, _S))
    yield rule("p", "P must be 1", _has_rights(segment, _P))
    yield rule("reserved-low", "bits 11:8 must be 0", _lacks_rights(segment, _RESERVED_LOW))
    if segment is _CS:
        yield rule("d", "D/B must be 0 if L is 1 in an IA-32e mode guest", _cs_size_is_valid)
    yield rule("g", "G must fit the limit", _granularity_fits(segment))
    yield rule("reserved-high", "bits 31:17 must be 0", _lacks_rights(segment, _RESERVED_HIGH))


def _rights_rules() -> Iterator[Rule]:
    for segment in _CODE_AND_DATA:
        text = f"{segment.name} access rights in virtual-8086 mode must be F3H"
        name = f"{segment.name.lower()}-rights-8086"
        yield _SECTION.rule(name, text, _in_8086(_has_8086_rights(segment)))
    yield from _type_rules()
    for segment in _CODE_AND_DATA:
        yield from _bit_rules(segment)


# Access rights of TR and LDTR


def _tr_type_is_valid(c: EntryContext) -> bool:
    kind = _type_of(c, _TR)
    return kind == _TSS_32 or (kind == _TSS_16 and not c.is_ia32e_guest)


def _system_rules(segment: SegmentFields) -> Iterator[Rule]:
    def rule(name: str, text: str, check: Check) -> Rule:
        guarded = _if_usable(segment, check)
        return _SECTION.rule(f"{segment.name.lower()}-{name}", f"{segment.name}: {text}", guarded)

    if segment is _TR:
        yield rule("type", "type must be 11, or 3 outside IA-32e mode", _tr_type_is_valid)
    else:
        yield rule("type", "type must be 2", lambda c: _type_of(c, _LDTR) == _LDT)
    yield rule("s", "S must be 0", _lacks_rights(segment, _S))
    yield rule("p", "P must be 1", _has_rights(segment, _P))
    yield rule("reserved-low", "bits 11:8 must be 0", _lacks_rights(segment, _RESERVED_LOW))
    yield rule("g", "G must fit the limit", _granularity_fits(segment))
    if segment is _TR:
        yield rule("unusable", "bit 16 must be 0", _lacks_rights(segment, UNUSABLE))
    yield rule("reserved-high", "bits 31:17 must be 0", _lacks_rights(segment, _RESERVED_HIGH))


SEGMENT_RULES: tuple[Rule, ...] = (
    *_address_rules(),
    *_rights_rules(),
    *_system_rules(_TR),
    *_system_rules(_LDTR),
)
