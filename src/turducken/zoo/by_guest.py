"""Scenarios with a mistake of a guest, or of whoever loads its state: guests/zoo/guests.c."""

from functools import partial

from turducken.zoo.scenario import Culprit, Scenario

_scenario = partial(Scenario, culprit=Culprit.GUEST)

_OLD_PAGE = "after: got 0x1d, expected 0x4e3"

SCENARIOS = (
    _scenario(
        name="invlpg-forgotten",
        title="a kernel changes a page-table entry and does not execute INVLPG",
        story=(
            "The oldest of all: a kernel in L2 lets a linear address lead to another page and "
            "goes on without INVLPG. Under a hypervisor without VPIDs every VM exit hides it; "
            "with VPIDs, which let translations live through exits, guests that had been quiet "
            "for years began to fail, and the hypervisor was blamed."
        ),
        faulty="L2 reads the old page.",
        fixed="INVLPG after the change.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _scenario(
        name="global-page-and-cr3",
        title="MOV to CR3 is expected to flush a global page",
        story=(
            "Reloading CR3 flushes the TLB, says the folklore. It does not flush translations of "
            "global pages: a kernel that remaps one of its own pages needs INVLPG or must clear "
            "and set CR4.PGE. The same gap separates INVVPID's types 1 and 3."
        ),
        faulty="A global page is remapped and CR3 written; L2 reads the old page.",
        fixed="CR4.PGE is cleared and set.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _scenario(
        name="invlpg-on-one-processor",
        title="a kernel frees a page, and flushes its own processor's TLB only",
        story=(
            "The shootdown again, a level above: a kernel with several processors changes a page "
            "table that they share. INVLPG acts on one processor; the others need an interrupt, "
            "and the page must not be free before all have answered. Linux's mremap let go of "
            "its locks first (CVE-2018-18281), and a process on another processor could write to "
            "pages that belonged to somebody else by then."
        ),
        faulty="The freed page gets a new owner; the other processor still reads it.",
        fixed="The other processor executes INVLPG, too, before the page is free.",
        failure="has read the secret of a page that was freed",
        rule="address-changed",
        cpus=2,
    ),
    _scenario(
        name="pcid-reused-without-flush",
        title="a PCID goes to another process, and CR3 is written with bit 63 set",
        story=(
            "With PCIDs a kernel keeps translations of several processes apart, and bit 63 of "
            "the value for CR3 says that what is cached under the PCID is still good. It is the "
            "kernel that has to know when it is not: when the number has gone to another process "
            "in the meantime, or that process's tables were changed while it was away."
        ),
        faulty="The next process reads its predecessor's page.",
        fixed="Bit 63 is clear the first time that a process gets the PCID.",
        failure="read by the next one: got 0x1d, expected 0x4e3",
        rule="pcid-reused",
    ),
    _scenario(
        name="pdptes-not-loaded",
        title="a PAE guest under EPT is entered without its PDPTEs",
        story=(
            "From the notes: an i386 PAE guest ran without EPT, and died of a triple fault at "
            "its first instruction with it. Without EPT a VM entry loads the four PDPTEs from "
            "where CR3 points; with EPT they are fields of the VMCS that the hypervisor has to "
            "fill in, and zeros there mean that nothing is mapped, the exception handlers "
            "included."
        ),
        faulty="The four fields are zero; L2's first fetch ends in a triple fault (exit reason 2).",
        fixed="The fields are filled from the guest's table.",
        failure="exit reason 2, qualification 0",
    ),
    _scenario(
        name="pdpte-changed-without-cr3",
        title="a PAE guest changes a PDPTE in memory, and nothing happens",
        story=(
            "PDPTEs are registers of the processor, loaded by MOV to CR0, CR3 and CR4, and not "
            "entries that a walk would read. A guest that edits one in memory sees the old one "
            "until it loads CR3, for as long as it likes; an emulator that walks from CR3 each "
            "time disagrees."
        ),
        faulty="PDPTE 0 in memory leads to other tables; L2 reads the old page.",
        fixed="MOV to CR3 after the change.",
        failure=_OLD_PAGE,
    ),
    _scenario(
        name="length-missing-on-injection",
        title="a breakpoint is injected again without the length of its instruction",
        story=(
            "INT3, INTO and INT n push the address behind the instruction. When a hypervisor "
            "injects such an event for its guest, the processor adds the VM-entry instruction "
            "length to RIP; with 0 there, the handler returns to the breakpoint itself, for "
            "ever. Hardware that refuses length 0 turns the mistake into a failed entry."
        ),
        faulty="L1 injects a #BP that it has looked at; the pushed address is that of the INT3.",
        fixed="VM-exit instruction length goes into VM-entry instruction length.",
        failure="where L2 is to go on",
    ),
)
