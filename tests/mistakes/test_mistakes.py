"""Mistakes that writers of hypervisors make: what the first diagnosis of each must name.

The guest is guests/mistakes: a hypervisor that is right but for one thing. Each mistake is made
bare, where the processor judges it, and nested, where L0 does.
"""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from turducken.address import MIB
from turducken.diagnosis import Sighting
from turducken.report.diagnoses import in_order
from turducken.system import Mode, Result, Stops, System, SystemOptions, find_image


class Row(NamedTuple):
    """A mistake; the rule that the first diagnosis must name, and the field or so that it must."""

    mistake: str
    rule: str
    field: str


ROWS = [
    Row("pin-controls-zero", "controls.execution.pin-reserved", "Pin-based VM-execution controls"),
    Row(
        "pin-controls-reserved-bit",
        "controls.execution.pin-reserved",
        "Pin-based VM-execution controls",
    ),
    Row(
        "primary-controls-zero",
        "controls.execution.primary-reserved",
        "Primary processor-based VM-execution controls",
    ),
    Row(
        "primary-controls-reserved-bit",
        "controls.execution.primary-reserved",
        "Primary processor-based VM-execution controls",
    ),
    Row(
        "secondary-controls-reserved-bit",
        "controls.execution.secondary-reserved",
        "Secondary processor-based VM-execution controls",
    ),
    Row("exit-controls-zero", "controls.exit.reserved", "VM-exit controls"),
    Row("exit-controls-reserved-bit", "controls.exit.reserved", "VM-exit controls"),
    Row("entry-controls-zero", "controls.entry.reserved", "VM-entry controls"),
    Row("entry-controls-smm", "controls.entry.reserved", "VM-entry controls"),
    Row("too-many-cr3-targets", "controls.execution.cr3-target-count", "CR3-target count"),
    Row("io-bitmap-unaligned", "controls.execution.io-bitmaps", "Address of I/O bitmap B"),
    Row("msr-bitmap-too-wide", "controls.execution.msr-bitmaps", "Address of MSR bitmaps"),
    Row(
        "virtual-apic-unaligned", "controls.execution.virtual-apic-address", "Virtual-APIC address"
    ),
    Row("apic-access-unaligned", "controls.execution.apic-access-address", "APIC-access address"),
    Row(
        "nmi-window-without-virtual-nmis",
        "controls.execution.nmi-window",
        "Primary processor-based VM-execution controls",
    ),
    Row(
        "virtual-nmis-without-nmi-exiting",
        "controls.execution.virtual-nmis",
        "Pin-based VM-execution controls",
    ),
    Row("vpid-zero", "controls.execution.vpid", "Virtual-processor identifier (VPID)"),
    Row("eptp-type-write-combining", "controls.execution.eptp-memory-type", "EPT pointer (EPTP)"),
    Row("eptp-walk-length", "controls.execution.eptp-walk-length", "EPT pointer (EPTP)"),
    Row("eptp-is-the-root-address", "controls.execution.eptp-walk-length", "EPT pointer (EPTP)"),
    Row("eptp-reserved-bit", "controls.execution.eptp-reserved", "EPT pointer (EPTP)"),
    Row("eptp-too-wide", "controls.execution.eptp-reserved", "EPT pointer (EPTP)"),
    Row(
        "unrestricted-without-ept",
        "controls.execution.ept-needed",
        "Secondary processor-based VM-execution controls",
    ),
    Row("timer-saved-but-not-used", "controls.exit.preemption-timer", "VM-exit controls"),
    Row("tpr-threshold-too-high", "controls.execution.tpr-threshold-reserved", "TPR threshold"),
    Row("msr-store-area-unaligned", "controls.exit.msr-store-area", "VM-exit MSR-store address"),
    Row("msr-load-area-too-wide", "controls.entry.msr-load-area", "VM-entry MSR-load address"),
    Row(
        "injection-reserved-type",
        "controls.injection.type",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-nmi-of-another-vector",
        "controls.injection.vector",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-exception-32",
        "controls.injection.vector",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-without-error-code",
        "controls.injection.error-code-missing",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-with-stray-error-code",
        "controls.injection.error-code-stray",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-while-interrupts-are-off",
        "guest.rip-rflags.rflags-if",
        "VM-entry interruption-information field",
    ),
    Row(
        "injection-without-length",
        "controls.injection.instruction-length",
        "VM-entry instruction length",
    ),
    Row("host-cr0-zero", "host.registers.cr0", "Host CR0"),
    Row("host-cr3-too-wide", "host.registers.cr3", "Host CR3"),
    Row("host-cr4-without-vmxe", "host.registers.cr4", "Host CR4"),
    Row("host-cr4-without-pae", "host.address-space.ia32e-host-pae", "Host CR4"),
    Row("host-cs-of-ring-3", "host.segments.cs-selector", "Host CS selector"),
    Row("host-cs-null", "host.segments.cs-null", "Host CS selector"),
    Row("host-ds-local", "host.segments.ds-selector", "Host DS selector"),
    Row("host-tr-null", "host.segments.tr-null", "Host TR selector"),
    Row("host-gs-base-not-canonical", "host.segments.gs-base", "Host GS base"),
    Row("host-idtr-base-not-canonical", "host.segments.idtr-base", "Host IDTR base"),
    Row("host-rip-not-canonical", "host.address-space.ia32e-host-rip", "Host RIP"),
    Row("host-of-32-bits", "host.address-space.ia32e-processor-host", "VM-exit controls"),
    Row("host-pat-zero-byte-2", "host.registers.pat", "Host IA32_PAT"),
    Row("host-efer-zero", "host.registers.efer-mode", "Host IA32_EFER"),
    Row("guest-cr0-zero", "guest.registers.cr0", "Guest CR0"),
    Row("guest-cr0-without-ne", "guest.registers.cr0", "Guest CR0"),
    Row("guest-cr3-too-wide", "guest.registers.cr3", "Guest CR3"),
    Row("guest-cr4-without-vmxe", "guest.registers.cr4", "Guest CR4"),
    Row("guest-cr4-without-pae", "guest.registers.ia32e-pae", "Guest CR4"),
    Row("guest-debugctl-reserved", "guest.registers.debugctl", "Guest IA32_DEBUGCTL"),
    Row("guest-dr7-upper-half", "guest.registers.dr7", "Guest DR7"),
    Row("guest-pat-of-type-3", "guest.registers.pat", "Guest IA32_PAT"),
    Row("guest-efer-zero", "guest.registers.efer-lma", "Guest IA32_EFER"),
    Row("guest-sysenter-not-canonical", "guest.registers.sysenter-eip", "Guest IA32_SYSENTER_EIP"),
    Row("guest-gdtr-base-not-canonical", "guest.descriptor-tables.gdtr-base", "Guest GDTR base"),
    Row("guest-gdtr-limit-too-large", "guest.descriptor-tables.gdtr-limit", "Guest GDTR limit"),
    Row("guest-rip-not-canonical", "guest.rip-rflags.rip-64", "Guest RIP"),
    Row("guest-rflags-zero", "guest.rip-rflags.rflags-reserved", "Guest RFLAGS"),
    Row("guest-rflags-vm", "guest.segments.cs-base-8086", "Guest RFLAGS"),
    Row("guest-cs-is-data", "guest.segments.cs-type", "Guest CS access rights"),
    Row("guest-cs-long-and-32-bit", "guest.segments.cs-d", "Guest CS access rights"),
    Row("guest-cs-of-ring-3", "guest.segments.cs-dpl", "Guest CS access rights"),
    Row("guest-cs-not-present", "guest.segments.cs-p", "Guest CS access rights"),
    Row("guest-ss-selector-of-ring-3", "guest.segments.ss-selector", "Guest SS selector"),
    Row("guest-ds-limit-in-bytes", "guest.segments.ds-g", "Guest DS limit"),
    Row("guest-es-not-accessed", "guest.segments.es-type", "Guest ES access rights"),
    Row(
        "guest-fs-rights-as-in-the-gdt", "guest.segments.fs-reserved-low", "Guest FS access rights"
    ),
    Row("guest-tr-not-busy", "guest.segments.tr-type", "Guest TR access rights"),
    Row("guest-tr-unusable", "guest.segments.tr-unusable", "Guest TR access rights"),
    Row("guest-tr-not-system", "guest.segments.tr-s", "Guest TR access rights"),
    Row("guest-ldtr-usable-by-accident", "guest.segments.ldtr-type", "Guest LDTR access rights"),
    Row("guest-activity-unknown", "guest.non-register.activity-supported", "Guest activity state"),
    Row(
        "guest-sti-while-interrupts-are-off",
        "guest.non-register.sti-if",
        "Guest interruptibility state",
    ),
    Row("guest-blocked-by-smi", "guest.non-register.smi", "Guest interruptibility state"),
    Row(
        "guest-pending-debug-reserved",
        "guest.non-register.pending-reserved",
        "Guest pending debug exceptions",
    ),
    Row("link-pointer-zero", "guest.non-register.link-revision", "VMCS link pointer"),
    Row("msr-list-loads-fs-base", "entry.msr-load.fs-gs-base", "MSR index of the entry"),
    Row("msr-list-loads-x2apic", "entry.msr-load.x2apic", "MSR index of the entry"),
    Row("msr-list-loads-no-msr", "entry.msr-load.wrmsr", "MSR index of the entry"),
    Row("msr-list-loads-bad-pat", "entry.msr-load.wrmsr", "MSR index of the entry"),
    Row("msr-list-reserved-bits", "entry.msr-load.reserved", "MSR index of the entry"),
    Row("msr-list-stores-no-msr", "vmx-abort.saving-guest-msrs", "MSR index of the entry"),
    Row("msr-list-of-exits-loads-gs-base", "vmx-abort.loading-host-msrs", "MSR index of the entry"),
    Row("vmxon-unaligned", "vmxon.alignment", "operand of VMXON"),
    Row("vmxon-address-too-wide", "vmxon.width", "operand of VMXON"),
    Row("vmxon-no-revision", "vmxon.revision", "first 4 bytes of the region"),
    Row("vmxon-twice", "vmxon.in-root", "VMXON pointer"),
    Row("vmxon-without-vmxe", "vmxon.cr4-vmxe", "CR4"),
    Row("vmxon-without-cr0-ne", "vmxon.cr0", "CR0"),
    Row("vmclear-unaligned", "vmclear.alignment", "operand of VMCLEAR"),
    Row("vmclear-of-the-vmxon-region", "vmclear.vmxon-pointer", "operand of VMCLEAR"),
    Row("vmptrld-unaligned", "vmptrld.alignment", "operand of VMPTRLD"),
    Row("vmptrld-address-too-wide", "vmptrld.width", "operand of VMPTRLD"),
    Row("vmptrld-no-revision", "vmptrld.revision", "first 4 bytes of the region"),
    Row("vmptrld-shadow-bit", "vmptrld.revision", "first 4 bytes of the region"),
    Row("vmptrld-of-the-vmxon-region", "vmptrld.vmxon-pointer", "operand of VMPTRLD"),
    Row("vmwrite-of-no-field", "vmwrite.unsupported", "field encoding"),
    Row("vmread-of-no-field", "vmread.unsupported", "field encoding"),
    Row("vmwrite-without-vmptrld", "vmwrite.no-current-vmcs", "current-VMCS pointer"),
    Row("vmwrite-without-vmxon", "vmx.not-in-operation", "in VMX operation"),
    Row("vmlaunch-without-vmptrld", "vmlaunch.no-current-vmcs", "current-VMCS pointer"),
    Row("vmlaunch-twice", "vmlaunch.launched", "launch state"),
    Row("vmresume-before-vmlaunch", "vmresume.not-launched", "launch state"),
    Row("vmresume-after-vmclear", "vmresume.not-launched", "launch state"),
    Row("vmlaunch-behind-mov-ss", "vmlaunch.mov-ss", "blocking by MOV SS"),
    Row("vmcall-in-root", "vmcall.in-root", "in VMX non-root operation"),
    Row("invept-no-such-type", "invept.type", "type of INVEPT"),
    Row("invept-of-the-root-address", "invept.eptp", "EPTP in the descriptor"),
    Row("invvpid-of-vpid-0", "invvpid.vpid", "VPID in the descriptor"),
    Row("invvpid-no-such-type", "invvpid.type", "type of INVVPID"),
    Row("invvpid-address-not-canonical", "invvpid.address", "linear address in the descriptor"),
    Row("cr4-vmxe-cleared-in-vmx-operation", "vmx.cr4-fixed", "value for CR4"),
    Row("cr0-ne-cleared-in-vmx-operation", "vmx.cr0-fixed", "value for CR0"),
    Row("cpuid-exit-not-handled", "exits.not-handled", "Exit reason"),
    Row("ept-violation-not-handled", "ept.not-present", "EPT PDE"),
    Row("rdmsr-of-no-msr", "msr.unknown", "ECX"),
    Row("wrmsr-of-a-bad-value", "msr.value", "ECX"),
    Row("in-from-no-device", "machine.unanswered", "address"),
    Row("l1-without-idt", "delivery.idt-limit", "IDTR base"),
    Row("l1-idt-of-zeros", "delivery.idt-type", "IDT entry 6"),
    Row("l1-idt-not-present", "delivery.idt-not-present", "IDT entry 6"),
    Row("l1-idt-with-a-data-selector", "delivery.handler-segment", "code selector of the gate"),
    Row("l1-stack-not-mapped", "delivery.stack", "RSP"),
    Row(
        "l1-spins-with-interrupts-off",
        "progress.endless-loop",
        "lowest RIP at the end of its last turns",
    ),
    Row("l1-halts-with-interrupts-off", "progress.nothing-to-wake", "RFLAGS"),
    Row("l1-handler-changes-nothing", "progress.exception", "RIP"),
    Row("l1-never-looks-at-the-flags", "vmresume.not-launched", "launch state"),
    Row("ept-pml4e-write-only", "ept.write-without-read", "EPT PML4E"),
    Row("ept-pdpte-write-only", "ept.write-without-read", "EPT PDPTE"),
    Row("ept-pde-write-only", "ept.write-without-read", "EPT PDE"),
    Row("ept-pte-write-only", "ept.write-without-read", "EPT PTE"),
    Row("ept-pte-write-and-execute", "ept.write-without-read", "EPT PTE"),
    Row("ept-pml4e-with-a-memory-type", "ept.reserved", "EPT PML4E"),
    Row("ept-pml4e-large", "ept.bit-7", "EPT PML4E"),
    Row("ept-pdpte-with-a-memory-type", "ept.reserved", "EPT PDPTE"),
    Row("ept-pde-ignores-pat", "ept.reserved", "EPT PDE"),
    Row("ept-1-gib-page-unaligned", "ept.reserved", "EPT PDPTE"),
    Row("ept-2-mib-page-unaligned", "ept.reserved", "EPT PDE"),
    Row("ept-pte-type-2", "ept.memory-type", "EPT PTE"),
    Row("ept-pte-type-3", "ept.memory-type", "EPT PTE"),
    Row("ept-pte-type-7", "ept.memory-type", "EPT PTE"),
    Row("ept-pml4e-too-wide", "ept.address-width", "EPT PML4E"),
    Row("ept-pte-too-wide", "ept.address-width", "EPT PTE"),
    Row("ept-violation-never-mapped", "ept.not-present", "EPT PDE"),
    Row("ept-violation-stays-read-only", "ept.right-missing", "EPT PTE"),
    Row("ept-violation-stays-unexecutable", "ept.right-missing", "EPT PTE"),
    Row("cpuid-exit-never-skipped", "progress.same-exit", "Guest RIP"),
    Row("l2-jumps-to-itself", "progress.endless-loop", "lowest RIP at the end of its last turns"),
    Row("l2-without-idt", "delivery.idt-limit", "IDTR base"),
    Row(
        "interrupt-not-injected-again",
        "exits.lost-event",
        "IDT-vectoring information field at the exit",
    ),
]
ENDLESS = {
    **dict.fromkeys(("l1-spins-with-interrupts-off", "l2-jumps-to-itself"), 700_000),
    **dict.fromkeys(("l1-handler-changes-nothing", "l1-never-looks-at-the-flags"), 480_000),
    **dict.fromkeys(("cpuid-exit-never-skipped", "ept-violation-never-mapped"), 480_000),
    **dict.fromkeys(("ept-violation-stays-read-only", "ept-violation-stays-unexecutable"), 480_000),
}
"""Mistakes that do not end a run: instructions after which it has gone on for long enough.

With two processors turns are short, and so are the times after which samples are taken.
"""


def run(mistake: str, mode: Mode, *, diagnose: bool = True) -> tuple[System, Result]:
    options = SystemOptions(
        find_image("mistakes-amd64"),
        mode=mode,
        text=f"mistake={mistake}",
        cpus=2 if mistake in ENDLESS else 1,
        memory=64 * MIB,
        diagnose=diagnose,
    )
    system = System(options)
    return system, system.run(Stops(max_instructions=ENDLESS.get(mistake)))


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.mistake)
def test_the_first_diagnosis_names_rule_and_field(row: Row, mode: Mode) -> None:
    _, result = run(row.mistake, mode)
    assert result.exit_status != 0
    first = in_order(result)[0].diagnosis
    rule = first.rule
    assert rule is not None
    assert rule.id == row.rule
    named = [one for one in rule.readings if one.is_subject]
    assert named[0].name.startswith(row.field)
    assert rule.text
    assert rule.citation.startswith("SDM ") or row.rule.startswith("machine.")


def test_every_mistake_of_the_image_has_a_row() -> None:
    options = SystemOptions(find_image("mistakes-amd64"), text="list")
    console = System(options).run().console
    names = {line.rpartition("/")[2] for line in console.splitlines() if "/" in line}
    assert names == {row.mistake for row in ROWS}
    assert len(names) >= 70


def test_nothing_is_collected_where_nobody_asks() -> None:
    system, result = run("vpid-zero", Mode.BARE, diagnose=False)
    assert system.diagnoses is None
    assert not result.diagnoses
    assert result.exit_status == 1


DOC = Path(__file__).parents[2] / "docs" / "my-vmlaunch-failed.md"


def test_the_causes_of_the_doc_are_mistakes_of_the_image() -> None:
    rules = {row.mistake: row.rule for row in ROWS}
    common = DOC.read_text().partition("## When")[0]
    causes = re.findall(r"^\| `([a-z0-9-]+)`.*?`([a-z0-9.-]+)` \|", common, re.MULTILINE)
    assert len(causes) >= 10
    for mistake, rule in causes:
        assert rules[mistake] == rule


def test_bare_and_nested_find_the_same() -> None:
    found = []
    for mode in Mode:
        options = SystemOptions(find_image("lhv-amd64"), mode=mode, text="tests=entry,errors")
        result = System(options).run()
        assert result.exit_status == 0
        found.append([_essence(one) for one in result.diagnoses])
    assert found[0] == found[1]
    assert len(found[0]) > 100


def _essence(one: Sighting) -> tuple[object, ...]:
    said = one.diagnosis
    return (one.place, one.count, said.operation, said.outcome, [rule.id for rule in said.rules])
