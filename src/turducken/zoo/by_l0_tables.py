"""Scenarios in which L0 makes or keeps EPT02 wrongly, for an L1 that does everything right.

The faulty form is one of `turducken.zoo.planted`; the fixed form is L0 as it is.
"""

from functools import partial

from turducken.address import GIB
from turducken.zoo.scenario import Culprit, Scenario

_zoo = partial(Scenario, culprit=Culprit.L0)
_lhv = partial(Scenario, culprit=Culprit.L0, image="lhv-amd64")

_REMAP = "read by L2: got 0x81, expected 0x82"

SCENARIOS = (
    # One entry of EPT02
    _lhv(
        name="leaf-permissions-only",
        title="only the leaf's permissions are looked at",
        story=(
            "What a guest may do with a page is what all levels of its EPT allow together. A "
            "nested hypervisor that walks EPT12 and takes the rights from the last entry gives "
            "L2 more than L1 did, wherever L1 protects 2 MiB or 1 GiB at once by an upper entry."
        ),
        faulty="L2 writes where an entry above the leaf takes W away; L1 never sees the violation.",
        fixed="The entries' rights are intersected, and L1 gets its violation.",
        failure="write of R--: expected exit reason 48",
        fault="leaf_permissions_only",
        program="ept-rights-level-2",
    ),
    _lhv(
        name="write-only-taken-for-violation",
        title="W without R in EPT12 is reported as a violation",
        story=(
            "Misconfigurations are looked for at each entry on the way down, permissions only "
            "after the leaf. An L1 may use a misconfigured entry on purpose, to tell its device "
            "pages from others by the exit reason. An L0 that looks at the access first gives it "
            "the wrong reason, and L1 looks for a page to map that it knows nothing of."
        ),
        faulty="L1 gets exit reason 48 where a processor gives it 49.",
        fixed="An entry with W and without R is a misconfiguration, whatever the access.",
        failure="write only: expected exit reason 49",
        fault="write_only_is_violation",
        program="ept-misconfig",
    ),
    _zoo(
        name="page-above-4-gib",
        title="the function that sets the memory type returns 32 bits",
        story=(
            "A setter of one field takes the entry and returns the changed one, as 32 bits: a "
            "type that was right when the code was written for 32-bit tables. With 2 GiB of RAM "
            "nothing happens. Beyond 4 GiB the upper half of each address is gone, and a guest's "
            "high pages are somebody else's low ones."
        ),
        faulty="L2's store to a page above 4 GiB lands in the page with the same low address bits.",
        fixed="Entries are 64 bits wide everywhere.",
        failure="another page: got 0x60c3, expected 0x7e2",
        fault="narrow_type_setter",
        memory=4 * GIB,
    ),
    _zoo(
        name="table-under-two-rights",
        title="a shadow page is shared where the rights above it differ",
        story=(
            "Shadow tables are found again by what they shadow: the guest's table. If the rights "
            "that the levels above it give are not part of the key, the shadow made for a "
            "writable path serves a read-only one, too. KVM's shadow pages had this "
            "(CVE-2021-38198): a guest's user could write what the kernel had mapped read-only."
        ),
        faulty=(
            "One table of EPT12 stands below two entries; L2 writes where only reads are allowed."
        ),
        fixed="The rights of all levels of the path in question count.",
        failure="expected exit reason 48",
        fault="shared_over_rights",
    ),
    _zoo(
        name="execute-only-page",
        title="execute-only entries become readable",
        story=(
            "Ordinary page tables have no entry that can be executed and not read, and code that "
            "was written for them has no place to keep a missing R: present means readable. "
            "Shadowing an EPT with execute-only entries then gives L2 the right to read code "
            "that L1 hides, for instance from malware that looks for breakpoints."
        ),
        faulty="L2 executes a page and can then read it.",
        fixed="R is a right like the others.",
        failure="expected exit reason 48",
        fault="execute_only_readable",
    ),
    _lhv(
        name="memory-type-lost",
        title="EPT02's leaves are UC, whatever EPT12 says",
        story=(
            "The mirror image of the notes' first bug, one level down: L1 has learnt to write WB "
            "into its entries, and L0 does not copy the bits. L2 works, hundreds of times "
            "slower, and no test that runs in the guest can tell why."
        ),
        faulty="The page that EPT12 maps WB is UC in EPT02.",
        fixed="The type is EPT12's, combined with EPT01's.",
        failure="WB in EPT12, but UC in EPT02",
        fault="wrong_memory_type",
        program="ept-note-page",
    ),
    _lhv(
        name="permission-dropped",
        title="EPT02's leaves are never writable",
        story=(
            "A shadow that gives less than it should refuses nothing: L0 sees the violation, "
            "finds that EPT12 allows the access, fills the same entry again, and resumes. No "
            "message, no crash, one processor at full load: a hang that looks like the guest's."
        ),
        faulty="L2's first store causes the same violation without end.",
        fixed="The leaf gives what both tables give.",
        failure="does not get on",
        fault="dropped_permission",
        program="ept-identity",
    ),
    _lhv(
        name="absence-remembered",
        title="from not present to present waits for a flush that nobody owes",
        story=(
            "Nothing may be cached of an entry that is not present, so L1 maps a page on demand "
            "without INVEPT. An L0 that remembers the misses of its walks, or builds EPT02 ahead "
            "and fills nothing afterwards, waits for an invalidation that the manual does not "
            "ask for, and L1's violation handler runs for ever."
        ),
        faulty="L1 maps the page that L2 wants, and gets the same violation again.",
        fixed="EPT12 is walked again at each violation.",
        failure="exit reason 48, qualification 181",
        fault="absence_kept",
        program="ept-map-without-invept",
    ),
    _zoo(
        name="walk-of-five-levels",
        title="the walk length of a guest's EPTP is not checked",
        story=(
            "Bits 5:3 of the EPTP are the number of levels, chosen by whoever writes the VMCS. "
            "An L0 that uses the number to index its arrays of levels, and leaves the check to a "
            "processor that never sees this EPTP, lets an L1 walk out of them."
        ),
        faulty="VM entry with a walk length of five succeeds.",
        fixed="VM entry fails with error 7, as on a processor without five-level EPT.",
        failure="how the entry ends: got 0x0, expected 0x2",
        fault="walk_length_unchecked",
    ),
    # INVEPT of L1's
    _lhv(
        name="invept-ignored",
        title="L1's INVEPT does nothing",
        story=(
            "The first version of many a nested hypervisor returns success from INVEPT and drops "
            "nothing. With a shadow that is emptied at every exit anyway, that is even right; it "
            "stops being right on the day when the shadow is kept, and nobody thinks of it then."
        ),
        faulty="L1 changes an entry and executes INVEPT; L2 reads the old page.",
        fixed="INVEPT drops the EPT02s of that EPT12.",
        failure=_REMAP,
        rule="shadow-left-behind",
        fault="skipped_invept",
        program="ept-remap-invept",
    ),
    _lhv(
        name="invept-type-not-checked",
        title="INVEPT of a type that does not exist succeeds",
        story=(
            "L1's mistake (see invept-type-0) has a partner in L0: an emulation that accepts any "
            "type and any EPTP hides the mistake from whoever develops L1 on it. All its tests "
            "pass, L1 is shipped, and fails on the first real processor."
        ),
        faulty="Types 0 and 3 and malformed EPTPs succeed, without any effect.",
        fixed="VMfailValid with error 28.",
        failure="type 0: expected to fail with error 28, ended with status 0",
        fault="invept_type_unchecked",
        program="error-invept",
    ),
    _lhv(
        name="invept-of-the-current-root",
        title="INVEPT acts on the current EPTP instead of its operand",
        story=(
            "While L1 handles an exit, the EPTP in its current VMCS is nearly always the one it "
            "wants to invalidate, so an L0 that forgets to read the operand passes most tests. "
            "L1s with one VMCS and several roots, or several guests on one processor, find it."
        ),
        faulty="A root that is not the current one is invalidated; under it L2 reads old pages.",
        fixed="The operand counts.",
        failure="after: got 0x90, expected 0x91",
        rule="shadow-left-behind",
        fault="invept_of_current",
        program="ept-switch-roots-change",
    ),
    _zoo(
        name="invept-of-other-flags",
        title="INVEPT compares the whole EPTP",
        story=(
            "Translations are tagged with bits 51:12 of the EPTP alone. Memory type, walk length "
            "and the flag that turns on accessed and dirty flags do not matter to INVEPT; an L0 "
            "that looks its shadows up by the whole value finds none when L1's operand differs "
            "in such a bit, and does nothing."
        ),
        faulty="INVEPT names the root with another flag than the VMCS; L2 reads the old page.",
        fixed="Bits 51:12 decide.",
        failure="after INVEPT: got 0x1d, expected 0x4e3",
        rule="shadow-left-behind",
        fault="invept_by_whole_eptp",
    ),
    _zoo(
        name="two-shadows-of-one-root",
        title="several shadows stand for one root, and INVEPT drops one of them",
        story=(
            "One EPT12 may need several EPT02s, since what can be read from it depends on more "
            "than its address: accessed and dirty flags on or off, execute control by mode, "
            "system management mode. INVEPT means them all. A lookup that ends at the first "
            "match leaves the others as they were."
        ),
        faulty="The root is used with and without flags; under one EPTP L2 reads the old page.",
        fixed="All shadows of the root are dropped.",
        failure="after INVEPT: got 0x1d, expected 0x4e3",
        rule="shadow-left-behind",
        fault="one_of_several_shadows",
    ),
    # What L0 invalidates itself
    _lhv(
        name="flush-of-the-wrong-root",
        title="EPT02 is dropped, but INVEPT names EPT01",
        story=(
            "Between L1 and L2 an L0 has two EPTPs at hand, the one it comes from and the one it "
            "goes to, and the flush needs that of the table that changed. With the other one the "
            "memory is right, the tables are right, and the processor knows nothing of it."
        ),
        faulty="EPT02 is emptied and the TLB keeps it; L2 reads the old page.",
        fixed="INVEPT with EPT02's EPTP.",
        failure=_REMAP,
        rule="permission-cleared",
        fault="flush_of_wrong_root",
        program="ept-remap-invept",
    ),
    _lhv(
        name="root-forgotten-by-a-flush",
        title="flushing EPT02 also forgets EPT01's root",
        story=(
            "One function that gives up all roots of a processor serves two tables, and the "
            "caller wanted one of them gone. KVM had to separate the roots of the guest and of "
            "the nested guest for this reason. The best outcome is a failed VM entry; the other "
            "ones use a freed page as a root."
        ),
        faulty="L1's next entry is refused: there is no EPTP.",
        fixed="Only EPT02 is dropped.",
        failure="VM entry with VMCS01 was refused",
        fault="forgotten_root",
        program="ept-identity,ept-remap-invept",
    ),
    # EPT01 changes
    _zoo(
        name="page-moved-by-l0",
        title="EPT01 has changed, EPT02 has not",
        story=(
            "EPT02 is EPT01 after EPT12. Whoever takes a page from L1, for ballooning, migration "
            "or an isolated application, must follow it into every EPT02 that was made through "
            "it. Otherwise L1 has lost the page and its guest still has it."
        ),
        faulty="L0 gives L1 another page in the place of one; L2 reads the old one.",
        fixed="EPT02 is dropped where EPT01 takes something away or moves it.",
        failure="read by L2: got 0x1d, expected 0x4e3",
        rule="shadow-left-behind",
        fault="shadow_left_behind",
        needs_app=True,
    ),
    _zoo(
        name="bitmap-moved-by-l0",
        title="EPT01 has changed, physical addresses inside VMCS02 have not",
        story=(
            "VMCS12 holds addresses that no table translates: I/O and MSR bitmaps, the "
            "APIC-access page, the virtual-APIC page. L0 translates them when it makes VMCS02, "
            "and again whenever EPT01 changes; KVM has a notifier for the APIC-access page "
            "alone. What is left behind points into memory that has another owner by now."
        ),
        faulty=(
            "L1's I/O bitmap has moved; the processor reads the old one, and L2's OUT still exits."
        ),
        fixed="The addresses are translated again.",
        failure="expected exit reason 18",
        fault="addresses_left_behind",
        needs_app=True,
    ),
    _zoo(
        name="page-taken-by-l0",
        title="L0 announces a shootdown and waits for nobody",
        story=(
            "The same mistake as L1's shootdown-waits-for-nobody, one level down: L0 takes a "
            "page from L1, tells the other processors to drop what they have when they next come "
            "by, and gives the page its new contents at once."
        ),
        faulty="L0 writes its secret into the page; an L2 on another processor reads it.",
        fixed="L0 makes the other processors leave their guests by INIT, and waits for them.",
        failure="has read the secret of a page that was taken away",
        rule="shadow-left-behind",
        fault="waits_for_nobody",
        cpus=2,
        needs_app=True,
    ),
    _zoo(
        name="taken-on-one-processor",
        title="EPT01 changes on the processor that asks, and on no other",
        story=(
            "An EPT01 for each processor lets L0 show each something else, and asks for a loop "
            "over all of them where it wants to show the same. TrustVisor's later version, with "
            "a root for each processor, needs that loop at every registration."
        ),
        faulty="The page is gone on one processor; on the other one L2 reads L0's secret.",
        fixed="Every processor's EPT01 changes before the page does.",
        failure="has read the secret of a page that was taken away",
        fault="one_processor_only",
        program="page-taken-by-l0",
        cpus=2,
        needs_app=True,
    ),
    _zoo(
        name="store-done-by-l0",
        title="a store is done by L0 and, after a change of EPT01, once more by the guest",
        story=(
            "L0 withholds a page, does the store for the guest that wanted it, and gives the "
            "page back. If the change makes it resume at the store instead of behind it, the "
            "store is done twice. For MOV nobody notices; for INC, XADD, PUSH and device "
            "registers it is once too often. Hypervisors that emulate stores to write-protected "
            "tables know this well."
        ),
        faulty="One INC of a counter, and the counter is 2.",
        fixed="What was completed is not retried.",
        failure="the counter: got 0x2, expected 0x1",
        fault="store_done_twice",
        needs_app=True,
    ),
)
