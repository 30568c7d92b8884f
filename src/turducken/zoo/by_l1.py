"""Scenarios in which a hypervisor changes its guest's tables, and somebody goes on with the old.

The guest is L1, and makes the mistake: guests/zoo/tables.c and guests/zoo/processors.c. What a
processor may keep is in SDM 3C, "Caching Translation Information"; what software must do about it,
in "Guidelines for Use of the INVEPT Instruction" and "Guidelines for Use of the INVVPID
Instruction".
"""

from functools import partial

from turducken.address import GIB
from turducken.zoo.scenario import Culprit, Scenario

_HIGH_MEMORY = 4 * GIB
"""A quarter of it lies above 4 GiB; only what is used costs anything."""

_on_one = partial(Scenario, culprit=Culprit.TABLES)
_on_two = partial(Scenario, culprit=Culprit.TABLES, cpus=2)

_OLD_PAGE = "read by L2: got 0x1d, expected 0x4e3"
_LEAK = "has read the secret of a page that was taken away"

SCENARIOS = (
    _on_two(
        name="shrink-without-remote-invept",
        title="a page is taken from an EPT, and INVEPT is executed on one processor only",
        story=(
            "TrustVisor takes the pages of a registered piece of code out of the one EPT that "
            "all processors use, and executes INVEPT on the processor that asked for it. INVEPT "
            "acts on the executing processor alone, so another one that has used the pages may "
            "go on reading them while the code works on its secrets. In the notes' experiments "
            "it could not be shown: under KVM an INVEPT in effect reaches all processors, and "
            "Bochs forgets everything at each VM entry and exit."
        ),
        faulty=(
            "Processor 0 clears the entry, executes INVEPT and gives the page to an L2 of its "
            "own, which keeps a secret there. The L2 on processor 1 still holds the translation, "
            "and reads the secret."
        ),
        fixed=(
            "Processor 0 asks the other one to execute INVEPT, too, and waits for the answer "
            "before the page changes hands."
        ),
        failure=_LEAK,
        rule="permission-cleared",
    ),
    _on_two(
        name="handed-over-before-shootdown",
        title="the page changes hands before the shootdown has completed",
        story=(
            "The request for a flush is sent, but the page is given away before every processor "
            "has answered, on the theory that the answer is a formality. Xen had a window like "
            "this where the type of a page was released before stale TLB entries were gone "
            "(XSA-241). The window is short and an attacker widens it: a processor that is busy "
            "elsewhere answers late."
        ),
        faulty=(
            "Processor 0 asks for the flush and gives the page away at once. The other L2 runs "
            "on until its next VM exit, and reads the new owner's secret."
        ),
        fixed="The page changes hands after the other processor has answered.",
        failure=_LEAK,
        rule="permission-cleared",
    ),
    _on_two(
        name="shootdown-waits-for-nobody",
        title="the mask of processors to wait for is empty",
        story=(
            "Code that waits for the other processors works out whom to wait for: those that use "
            "the table, without itself. One operator wrong in that expression and the set is "
            "always empty; the loop ends at once, no assertion fails, and every test on an idle "
            "machine passes, because the others answer within microseconds anyway."
        ),
        faulty=(
            "The mask comes out as zero, nobody is waited for, and the other L2 reads the secret."
        ),
        fixed="The mask holds every user of the table but the sender, and the page waits for them.",
        failure=_LEAK,
        rule="permission-cleared",
    ),
    _on_two(
        name="one-root-of-two-changed",
        title="each processor has a root of its own, and one of them is changed",
        story=(
            "Giving each processor its own root with copied upper levels is a cure for "
            "hypervisors that want to show different things on different processors. It moves "
            "the problem: a change in an upper level has to be made in each copy. One forgotten "
            "copy is no stale translation at all; that processor's table simply says so, and no "
            "flush will help."
        ),
        faulty=(
            "The entry of the page directory is cleared in processor 0's copy. Processor 1 "
            "answers the flush, walks its own copy, and still finds the page."
        ),
        fixed="The entry is cleared in both copies before the flush is asked for.",
        failure=_LEAK,
    ),
    _on_two(
        name="entry-written-in-halves",
        title="a live entry is written in two halves",
        story=(
            "An entry has 64 bits and the processors' walkers read it whenever they like. Code "
            "that fills in a structure field by field, a 32-bit build, or a compiler that splits "
            "the store shows them a mixture. Xen modified live EPT entries non-atomically "
            "(XSA-328). From not present to present no invalidation follows, so what was cached "
            "from the mixture stays."
        ),
        faulty=(
            "The low half, with the rights, is stored first; an interrupt comes before the high "
            "half. The L2 on processor 1 meets an entry that leads to a page 4 GiB below the one "
            "that was meant, and keeps it."
        ),
        fixed="The entry is stored in one piece.",
        failure="read by L2 on the other processor: got 0x7e2, expected 0x60c3",
        memory=_HIGH_MEMORY,
        rule="address-changed",
    ),
    _on_one(
        name="flush-skipped-by-condition",
        title="the flush is left out by a condition that forgets a case",
        story=(
            "INVEPT costs hundreds of cycles and a shootdown thousands, so hypervisors skip them "
            "where they can: when the entry was not present, or rights were only added. The list "
            "of cases is easily too long. Here only lost rights count as a reason, and an entry "
            "that keeps its rights but leads to another page is not one. Xen's flushes with "
            "PCIDs (XSA-292) went wrong in this way."
        ),
        faulty="The entry leads to another page with the same rights; L2 reads the old page.",
        fixed="A changed address is a reason for INVEPT, too.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _on_one(
        name="invept-type-0",
        title="INVEPT with a type that does not exist",
        story=(
            "INVVPID's types begin with 0, INVEPT's with 1. Type 0 makes INVEPT fail with error "
            "28, which sets ZF, drops nothing, and is seen by nobody who does not look at the "
            "flags after what looks like a hint to the processor."
        ),
        faulty="INVEPT of type 0 fails silently; L2 reads the old page.",
        fixed="Type 1 with the EPTP, and a look at the flags.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _on_one(
        name="invept-before-the-change",
        title="INVEPT is executed before the entry is written",
        story=(
            "Flush, then change: the order feels safe, because nothing stale is there at the "
            "moment of the change. But the processor may fetch the old entry again at any time "
            "in between, by a guest that runs on, or by speculation on its own. What it then "
            "holds outlives the change."
        ),
        faulty=(
            "After INVEPT L2 runs once more and brings the old translation back; then it changes."
        ),
        fixed="The entry is written first, INVEPT comes after it.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _on_one(
        name="invvpid-for-an-ept-change",
        title="INVVPID in the place of INVEPT",
        story=(
            "Both instructions flush a guest's TLB, it seems. INVVPID drops linear and combined "
            "mappings; guest-physical mappings, which the processor makes from EPT alone, are "
            "none of its business and may be used to build the combined mapping again at the "
            "next access."
        ),
        faulty="INVVPID after a change of an EPT entry; L2 reads the old page.",
        fixed="INVEPT.",
        failure=_OLD_PAGE,
        rule="address-changed",
    ),
    _on_one(
        name="write-protection-without-invept",
        title="a page becomes read-only for copy-on-write, without INVEPT",
        story=(
            "Page sharing, snapshots and dirty tracking take the write right away and rely on "
            "the violation that the next store must cause. Without INVEPT the store goes "
            "through, into a page that others share by now: a guest has changed its neighbour's "
            "memory."
        ),
        faulty="L2 has written the page before; its next store reaches the shared copy.",
        fixed="INVEPT before the page is shared; the store causes a violation.",
        failure="the shared page: got 0x60c3, expected 0x7e2",
        rule="permission-cleared",
    ),
    _on_one(
        name="page-reused-before-invept",
        title="a page is reused before the INVEPT that was put off",
        story=(
            "Batching is right: clear many entries, invalidate once. What goes wrong is the list "
            "of freed pages, when the allocator hands one out again before the batch is "
            "complete. KVM's, Linux's and Xen's memory-management units all had windows of this "
            "kind; the page has a new owner, and a guest can still read and write it."
        ),
        faulty="The entry is cleared and the page gets its next owner's secret; L2 reads it.",
        fixed="INVEPT first, then the page is free.",
        failure="L2 reads a page that was taken from it",
        rule="permission-cleared",
    ),
    _on_one(
        name="table-reused-before-invept",
        title="a page that was an EPT table holds data, and a processor still walks it",
        story=(
            "Processors cache entries of the upper levels, too: which table serves which 2 MiB. "
            "If the table's page is freed and reused before INVEPT, its new contents are taken "
            "for entries. Whoever can write there maps whatever they want into the guest, L0's "
            "memory included. Emulators without paging-structure caches never show it, nor does "
            "a shadow that translates page by page: run this one bare."
        ),
        faulty=(
            "The entry above is cleared, and data that looks like an entry is written to the old "
            "table. L2's next access, to a neighbour of the page it knows, goes through it."
        ),
        fixed="INVEPT before the table's page is used for something else.",
        failure="L2's access goes through a page that is no table any more",
        rule="permission-cleared",
    ),
    _on_one(
        name="large-page-split-without-invept",
        title="a large page is split, and one of its parts exchanged, without INVEPT",
        story=(
            "A hypervisor that wants to protect or move 4 KiB of a 2-MiB page replaces the large "
            "leaf by a table. The old translation covers all of it, and may go on doing so. On "
            "some processors the two sizes together are worse than stale: a machine check stops "
            "the host (CVE-2018-12207), which is why the order is not present, INVEPT, then the "
            "new entry."
        ),
        faulty="L2 reads the part that was exchanged, through the old large translation.",
        fixed="INVEPT after the split.",
        failure="read by L2: got 0x1d, expected 0x4e3",
        rule="size-changed",
    ),
    _on_one(
        name="invept-of-one-root-of-two",
        title="two roots share a table, and INVEPT is executed for one of them",
        story=(
            "Alternate views of a guest (Xen's altp2m, VM functions) are roots that share most "
            "of their tables. A change in a shared table is visible under every root, but what a "
            "processor has cached is tagged with the root it was made under, so that each needs "
            "its own INVEPT, or all do at once with type 2."
        ),
        faulty=(
            "A shared leaf changes, INVEPT names one root; under the other L2 reads the old page."
        ),
        fixed="INVEPT for both roots.",
        failure="read under the other root: got 0x1d, expected 0x4e3",
        rule="address-changed",
    ),
    _on_one(
        name="root-reused-without-invept",
        title="the page of a root becomes the root of another guest",
        story=(
            "Translations are tagged with the address of the root, not with the guest it "
            "belonged to. A hypervisor that frees a guest's tables without a last INVEPT leaves "
            "the next guest whose root happens to get the same page with its predecessor's "
            "memory. It shows once in months, when the allocator returns just that page."
        ),
        faulty="The root is filled anew for another L2, which reads the first one's page.",
        fixed="INVEPT when a root is made (or given up).",
        failure="read by the new L2: got 0x1d, expected 0x4e3",
        rule="permission-cleared",
    ),
    _on_one(
        name="dirty-flag-cleared-without-invept",
        title="dirty flags are cleared for a migration, without INVEPT",
        story=(
            "Live migration reads the dirty flags, clears them, copies the pages and comes back "
            "for those that are dirty again. A processor that has seen a dirty flag set has no "
            "reason to set it again, until INVEPT makes it forget. The page is not copied a "
            "second time, and the guest wakes up elsewhere with old memory in one page out of "
            "thousands."
        ),
        faulty="L2 writes again after the flag was cleared; the flag stays clear.",
        fixed="INVEPT after the flags were cleared.",
        failure="a page that L2 has written is marked dirty",
        rule="dirty-cleared",
    ),
    _on_one(
        name="flags-turned-on-without-invept",
        title="dirty flags are turned on for a root that is in use, without INVEPT",
        story=(
            "Dirty logging begins with a bit in the EPTP. What a processor has cached under the "
            "root was made when there were no flags to set, and it is tagged with the root's "
            "address, which has not changed: the first writes after the beginning of a migration "
            "leave no trace. The manual asks for INVEPT before the entry that turns the bit on."
        ),
        faulty="L2 writes to a page that it has written before; the flag stays clear.",
        fixed="INVEPT together with the new EPTP.",
        failure="a page that L2 has written is marked dirty",
        rule="flags-enabled",
    ),
    _on_one(
        name="vpid-reused-without-invvpid",
        title="a VPID is given to the next guest, with the last one's translations",
        story=(
            "VPIDs are few, so they are reused. What a processor holds under one belongs to the "
            "last guest that ran under it; linear addresses mean something else for the next. "
            "Linear and combined mappings must go, by INVVPID, before the number is handed out "
            "again."
        ),
        faulty="A second L2 with other page tables gets the first one's VPID, and its page.",
        fixed="INVVPID, single context, when the number is handed out.",
        failure="read by the next L2: got 0x1d, expected 0x4e3",
        rule="vpid-reused",
    ),
    _on_one(
        name="invvpid-spares-global-pages",
        title="INVVPID of type 3, where L1 has moved a global page",
        story=(
            "INVVPID has a type for what MOV to CR3 does in the guest: everything under one VPID "
            "but the global pages. Hypervisors that shadow or patch their guest's page tables "
            "like it, since it is cheap, until the page they have moved is one of the guest "
            "kernel's, which are global nearly always."
        ),
        faulty=(
            "L1 moves a global page of L2's and executes INVVPID of type 3; L2 reads the old page."
        ),
        fixed="Type 1, or type 0 with the address.",
        failure="read by L2: got 0x1d, expected 0x4e3",
        rule="address-changed",
    ),
    _on_one(
        name="memory-type-forgotten",
        title="a leaf without a memory type is uncached",
        story=(
            "The notes' first bug. Bits 5:3 of a leaf are the memory type, and 0 is UC. The "
            "entry 1234007 maps the page with all rights, and everything works, only hundreds of "
            "times slower; 1234037 is what was meant. An emulator has no caches, so nothing but "
            "the entry itself tells."
        ),
        faulty="The leaf for L2's page is made of address and rights alone.",
        fixed="The leaf has type WB.",
        failure="memory type of a page of RAM: got 0x0, expected 0x6",
    ),
    _on_one(
        name="memory-type-changed-without-invept",
        title="a page becomes uncached, and a processor goes on with WB",
        story=(
            "A page of RAM is given to a device, or a frame buffer moves, and its memory type "
            "changes. The type is part of what a processor caches with a translation, so it "
            "changes with INVEPT and not with the entry. Two processors that use one page with "
            "two types is what the manual warns of most: data is lost in a cache that nobody "
            "looks into. Nothing that runs in the guest can tell."
        ),
        faulty="The leaf is UC now, and L2's next read still goes by the WB that was cached.",
        fixed="INVEPT after the type has changed.",
        rule="type-changed",
    ),
    _on_one(
        name="invept-executed-twice",
        title="INVEPT where the entry changes, and again before the entry, to be sure",
        story=(
            "Where nobody is certain who has flushed, everybody does: the function that writes "
            "the entry, its caller, and the way into the guest. Nothing breaks. But under "
            "another hypervisor each INVEPT is a VM exit of thousands of cycles, and drops "
            "shadows that have to be built again; and flushes that are there to be sure hide for "
            "years that one is missing elsewhere."
        ),
        faulty="The second INVEPT acts on nothing, since L2 has not run in between.",
        fixed="One INVEPT, next to the change.",
        rule="nothing-cached",
    ),
    _on_one(
        name="write-only-entry",
        title="an entry with W but without R, to make reads of a device exit",
        story=(
            "To emulate a device whose reads matter but whose writes may go through, some L1s "
            "clear R and leave W. There is no such entry: W without R is a misconfiguration, "
            "whatever the access is, and its exit carries no qualification. It worked in a "
            "simulator that tested rights before it tested entries."
        ),
        faulty="L1 waits for an EPT violation, and gets a misconfiguration (exit reason 49).",
        fixed="The entry is read-only, and writes exit.",
        failure="expected exit reason 48",
    ),
)
