"""The `writeprotect` policy's bookkeeping: who may write which page of EPT12, and when."""

from collections.abc import Generator

from l0_bench import Bench

from turducken.address import PAGE_SIZE, Gpa1, Gpa2
from turducken.hypervisor import l2_exits
from turducken.hypervisor.shadow.compose import Filled, Unwatched
from turducken.hypervisor.vcpu import Vcpu
from turducken.vmx import vmcs_fields as f
from turducken.vmx.exit_information import EPT_QUALIFICATION
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.interface import Wait

PAGE = Gpa2(0x1234000)
TARGET = Gpa1(0x240_0000)
READ, WRITE = EPT_QUALIFICATION.mask("READ"), EPT_QUALIFICATION.mask("WRITE")
MANY = 50

Waiting = Generator[Wait, None, None]


def two_processors() -> tuple[Bench, Vcpu, Vcpu]:
    bench = Bench("writeprotect", cpus=2)
    first, second = bench.hypervisor.vcpus
    first.in_guest = second.in_guest = False
    return bench, first, second


def violation(bench: Bench, gpa2: Gpa2, access: int) -> None:
    """Let L2 meet an EPT violation, and L0 handle it."""
    context = bench.vcpu.nested.current
    assert context is not None
    bench.vcpu.in_l2 = True
    bench.vcpu.current = context.vmcs02
    context.vmcs02.write(f.EXIT_REASON, ExitReason.EPT_VIOLATION)
    context.vmcs02.write(f.EXIT_QUALIFICATION, access)
    context.vmcs02.write(f.GUEST_PHYSICAL_ADDRESS, gpa2)
    handling = l2_exits.on_exit(bench.vcpu)
    if handling is not None:
        bench.run(handling)


def leave_guest(vcpu: Vcpu) -> None:
    """What the loop of a processor does at a VM exit and before the next entry."""
    vcpu.in_guest = False
    watch_tables = vcpu.system.watch_tables
    watch_tables.close(vcpu)
    vcpu.serve_requests()


def finish(waiting: Waiting, others: Vcpu) -> None:
    """Run to the end; whenever it waits, the other processor leaves its guest for a moment."""
    for _ in waiting:
        leave_guest(others)
        others.in_guest = True


def watched(bench: Bench) -> frozenset[Gpa1]:
    """Map a page, and have what it is translated through watched; return these pages."""
    bench.map12(PAGE, TARGET)
    found = bench.compose(PAGE)
    assert isinstance(found, Unwatched)
    bench.run(bench.hypervisor.watch_tables.watch(bench.vcpu, found.tables))
    assert isinstance(bench.compose(PAGE), Filled)
    return found.tables


def test_l2_can_write_the_tables_that_translate_it() -> None:
    bench = Bench("writeprotect")
    leaf = bench.entry12(PAGE, 12)
    table = Gpa1(leaf & -PAGE_SIZE)
    bench.map12(PAGE, table)  # the page maps the table that maps it
    there = bench.vcpu.shadow.table_of(bench.root12)
    assert there is not None
    tries = 0
    while not there.get(PAGE).value & WRITE:
        violation(bench, PAGE, WRITE)
        tries += 1
        assert tries < MANY
    # Nobody sees what is written there, so nothing that was made of it is kept for the next L2.
    bench.vcpu.shadow.leave()
    assert bench.lookup02(PAGE) is None


def test_a_page_that_the_processor_writes_is_not_watched() -> None:
    bench = Bench("writeprotect", text="tests=tpr-shadow*")
    context = bench.vcpu.nested.current
    assert context is not None
    page = Gpa1(context.vmcs12.read(f.VIRTUAL_APIC_ADDRESS))
    assert page in bench.hypervisor.watch_tables.unwatchable
    bench.run(bench.hypervisor.watch_tables.watch(bench.vcpu, frozenset({page})))
    assert page not in bench.hypervisor.watch_tables.pages


def test_a_watch_that_a_write_overtakes_does_not_count() -> None:
    """While one processor waits for the other to lose its write right, that one writes."""
    bench, first, second = two_processors()
    watch_tables = bench.hypervisor.watch_tables
    pages = frozenset({TARGET})
    second.in_guest = True
    watching = watch_tables.watch(first, pages)
    assert next(watching) is Wait.OTHERS
    leave_guest(second)
    finish(watch_tables.release(second, pages), first)
    second.in_guest = True
    for _ in watching:
        raise AssertionError("the other processor has served its request")
    assert not watch_tables.pages & pages
    assert not any(one.ept01.is_withheld(TARGET) for one in (first, second))


def test_a_released_page_is_not_watched_before_it_is_written() -> None:
    bench, first, second = two_processors()
    watch_tables = bench.hypervisor.watch_tables
    pages = watched(bench)
    first.in_guest = True
    releasing = watch_tables.release(second, pages)
    assert next(releasing) is Wait.OTHERS  # for the processor that runs L2
    first.in_guest = False
    watching = watch_tables.watch(first, pages)
    assert next(watching) is Wait.OTHERS  # for the writer
    first.serve_requests()
    for _ in releasing:
        raise AssertionError("nobody to wait for")
    assert bench.lookup02(PAGE) is None
    assert not watch_tables.pages & pages
    second.in_guest = True
    finish(watching, second)
    assert watch_tables.pages >= pages


def test_a_writer_waits_for_one_that_it_has_overtaken() -> None:
    bench, first, second = two_processors()
    watch_tables = bench.hypervisor.watch_tables
    test_pages = frozenset({TARGET})
    second.in_guest = True
    watching = watch_tables.watch(first, test_pages)
    next(watching)
    leave_guest(second)
    finish(watch_tables.release(second, test_pages), first)
    for _ in watching:
        raise AssertionError("nobody to wait for")
    leave_guest(second)
    first.in_guest = False
    bench.run(watch_tables.watch(first, test_pages))
    assert test_pages <= watch_tables.pages
    releasing = watch_tables.release(second, test_pages)
    assert next(releasing) is Wait.OTHERS
    assert test_pages <= watch_tables.pages
    first.in_guest = True
    finish(releasing, first)
    assert not watch_tables.pages & test_pages


def test_withholding_a_page_takes_it_from_l2_too() -> None:
    """L2 may write a page until it becomes a table."""
    bench = Bench("writeprotect")
    watched(bench)
    bench.map12(Gpa2(0x5000), TARGET)
    violation(bench, Gpa2(0x5000), WRITE)
    violation(bench, Gpa2(0x5000), WRITE)
    assert bench.lookup02(Gpa2(0x5000)) == TARGET
    bench.run(bench.hypervisor.watch_tables.watch(bench.vcpu, frozenset({TARGET})))
    assert bench.lookup02(Gpa2(0x5000)) is None
