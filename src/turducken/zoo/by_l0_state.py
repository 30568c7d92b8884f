"""Scenarios in which L0 loses a part of an exit, or mixes up VPIDs and registers of L1 and L2.

The faulty form is one of `turducken.zoo.planted`; the fixed form is L0 as it is.
"""

from functools import partial

from turducken.zoo.scenario import Culprit, Scenario

_zoo = partial(Scenario, culprit=Culprit.L0)
_lhv = partial(Scenario, culprit=Culprit.L0, image="lhv-amd64")

SCENARIOS = (
    # Events
    _lhv(
        name="interrupt-lost-in-a-violation",
        title="an event whose delivery an EPT violation interrupts is dropped",
        story=(
            "The processor is about to deliver an interrupt, and the IDT's page is not in EPT02 "
            "yet. The exit says so in IDT-vectoring information; the interrupt itself has left "
            "the APIC. An L0 that fills the page and resumes, as for any other violation, has "
            "lost it. What that looks like is a guest that stands still every few hours, for "
            "want of one tick."
        ),
        faulty="L2 never sees the event that L1 injected.",
        fixed="IDT-vectoring information becomes event injection of the next entry.",
        failure="injected interrupt: expected exit reason 48",
        fault="lost_vectoring",
        program="ept-violation-reads-idt",
    ),
    _lhv(
        name="length-lost-in-a-violation",
        title="a software interrupt is injected again without its instruction's length",
        story=(
            "For INT n and INT3 the event alone is not enough: the return address that is pushed "
            "is RIP plus the instruction's length, which the exit reports and the entry needs. "
            "Left at 0, the handler returns to the INT, which is executed again."
        ),
        faulty="The address that L2's handler finds on its stack is that of the INT itself.",
        fixed="VM-exit instruction length is copied with the event.",
        failure="INT n: pushed IP",
        fault="lost_instruction_length",
        program="ept-violation-pushes-frame",
    ),
    _lhv(
        name="injection-left",
        title="the injection of one entry is still there at the next",
        story=(
            "A VM exit clears the valid bit of VM-entry interruption information, so that an "
            "event is injected once. In a nested hypervisor the field is VMCS12's, and no "
            "processor clears it: L0 must. L1 resumes its guest, and the guest gets the same "
            "interrupt at each entry."
        ),
        faulty="The event is injected again and again, until an entry fails over it.",
        fixed="L0 clears the bit in VMCS12 when it gives L1 the exit.",
        failure="the injection is used up: got 0x80000000, expected 0x0",
        fault="injection_left",
        program="event-injection",
    ),
    # VPIDs
    _lhv(
        name="no-flush-without-vpid",
        title="nothing is flushed at transitions, though L1 uses no VPID",
        story=(
            "Without VPIDs every VM entry and exit drops linear and combined mappings, and an L1 "
            "of that kind relies on it: it changes its guest's tables and enters. L0 runs both "
            "under VPIDs of its own, because that is fast, and then has to do what the processor "
            "no longer does."
        ),
        faulty="L1 changes L2's page table between two entries; L2 reads the old page.",
        fixed="L0 executes INVVPID for both at each entry of an L2 without VPID.",
        failure="read by L2: got 0xac, expected 0xad",
        rule="flush-left-out",
        fault="no_transition_flush",
        program="no-vpid-forgets",
    ),
    _zoo(
        name="same-address-in-l1-and-l2",
        title="L1 and L2 run under the same VPID",
        story=(
            "L2's VPID is chosen by L1, and L1 has one that L0 chose. If L0 passes L1's number "
            "through, or takes its own for both, translations of one serve the other: an L2 "
            "reads hypervisor memory at an address of its own. Under different EPTs the tag of "
            "combined mappings hides it, so it takes an L2 without EPT to see."
        ),
        faulty="L2 reads L1's page at the same linear address.",
        fixed="Each VPID of L1's becomes another one of L0's.",
        failure="read by L2: got 0x7e2, expected 0x4e3",
        rule="flush-left-out",
        fault="shared_vpid",
    ),
    _lhv(
        name="invvpid-of-the-upper-half",
        title="INVVPID by address refuses the upper half",
        story=(
            "Canonical addresses have two halves. A check that compares with the end of the "
            "lower one, or that was written for 32 bits, refuses every kernel address of a "
            "64-bit guest; L1 sees INVVPID fail where it cannot, and panics or goes on without "
            "the flush."
        ),
        faulty="INVVPID of an address in the upper half fails with error 28.",
        fixed="Any canonical address is accepted.",
        failure="INVVPID: status 2",
        fault="canonical_lower_half_only",
        program="invvpid-upper-half",
    ),
    # PAE
    _zoo(
        name="pae-without-ept",
        title="an L2's PDPTEs are read at L1's CR3",
        story=(
            "An L2 without EPT that uses PAE paging needs its PDPTEs loaded at the entry, from "
            "its own CR3. The hypervisor's helper takes CR3 from the VMCS that happens to be "
            "current, or from L1's registers, and four entries of something else go into the "
            "guest state."
        ),
        faulty="L1's top-level table is no PDPT: the processor refuses L0's entry of L2.",
        fixed="The PDPTEs come from the CR3 that is being loaded.",
        failure="VM entry with VMCS02 was refused",
        fault="pdptes_from_wrong_cr3",
    ),
    _lhv(
        name="pdpte-page-unmapped",
        title="L2 turns paging on while its PDPTEs' page is not mapped in EPT12",
        story=(
            "MOV to CR0 that turns on PAE paging reads the four PDPTEs through EPT. If L1 has "
            "not mapped their page, that is an EPT violation without a linear address, and L1 "
            "maps the page. An L0 that loads them itself and treats a failed read like a "
            "reserved bit gives L2 a #GP: kernels that switch paging off and on, as boot loaders "
            "and S3 wake-up code do, die."
        ),
        faulty="L2 gets #GP for MOV to CR0.",
        fixed="L1 gets the EPT violation: a read, bit 7 clear.",
        failure="exception 80000b0d",
        fault="pdpte_violation_is_gp",
        program="unrestricted-pdpte-page-unmapped",
    ),
)
