"""Descriptors, lending and measurements, against models that share no code with them."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turducken.address import PAGE_SIZE, Gpa1, Hpa
from turducken.apps.trustvisor import abi
from turducken.apps.trustvisor.abi import SectionKind, Status
from turducken.apps.trustvisor.descriptor import Descriptor, Section, parse_descriptor
from turducken.apps.trustvisor.lending import Lending
from turducken.apps.trustvisor.measuring import extend, measure
from turducken.apps.trustvisor.pal import LentPage, Owner, Pal, PalMemory
from turducken.hypervisor.memory_control import Protect, Restore, Unmap
from turducken.memory import PhysicalMemory

CODE, DATA, STACK = 0x10_0000, 0x10_1000, 0x10_2000


def descriptor(
    sections: list[tuple[int, int, int]], entry: int = CODE, parameters: tuple[int, ...] = ()
) -> bytes:
    head = struct.pack("<IIQII", 1, len(sections), entry, len(parameters), 0)
    words = b"".join(struct.pack("<II", one, 0) for one in parameters).ljust(6 * 8, b"\0")
    return (head + words + b"".join(struct.pack("<IIQ", *one) for one in sections)).ljust(
        abi.DESCRIPTOR_SIZE, b"\0"
    )


def test_a_good_descriptor() -> None:
    data = descriptor([(1, 1, CODE), (2, 1, DATA), (4, 1, STACK)], CODE + 16, (1, 1))
    found = parse_descriptor(data, is_64bit=False)
    assert isinstance(found, Descriptor)
    assert found.entry == CODE + 16
    assert [one.kind.name for one in found.sections] == ["CODE", "DATA", "STACK"]
    assert len(found.parameters) == 2


@given(st.binary(min_size=abi.DESCRIPTOR_SIZE, max_size=abi.DESCRIPTOR_SIZE), st.booleans())
def test_any_bytes_are_judged(data: bytes, is_64bit: bool) -> None:
    assert isinstance(parse_descriptor(data, is_64bit=is_64bit), Status)


small = st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 6).map(lambda n: n << 12))


@given(st.lists(small, min_size=1, max_size=5), st.integers(0, 0x7FFF))
def test_what_is_accepted_is_sound(sections: list[tuple[int, int, int]], entry: int) -> None:
    found = parse_descriptor(descriptor(sections, entry), is_64bit=True)
    if isinstance(found, Status):
        assert found is not Status.SUCCESS
        return
    pages = [page for _, count, at in sections for page in range(at >> 12, (at >> 12) + count)]
    assert len(pages) == len(set(pages))
    assert 0 not in pages
    assert [kind for kind, _, _ in sections].count(4) == 1
    assert any(kind == 1 and at <= entry < at + count * 4096 for kind, count, at in sections)


def pal(number: int, pages: list[tuple[int, SectionKind]]) -> Pal:
    sections = tuple(Section(kind, 1, at) for at, kind in pages)
    lent = tuple(LentPage(at, Gpa1(at), Hpa(at), kind, 0) for at, kind in pages)
    return Pal(number, Owner(1, 0), True, Descriptor(pages[0][0], (), sections), lent)


def test_lending_own_and_shared_pages() -> None:
    lending = Lending()
    shared = (0x5000, SectionKind.SHARED_CODE)
    first = pal(1, [(0x1000, SectionKind.CODE), shared])
    second = pal(2, [(0x2000, SectionKind.CODE), shared])
    assert lending.accepts(first.pages)
    assert lending.lend(first) == [Unmap(Gpa1(0x1000), PAGE_SIZE), Protect(Gpa1(0x5000), 4096, 5)]
    assert lending.owner_of(0x1FFF) is first
    assert lending.owner_of(0x5000) is None
    assert lending.is_shared(0x5ABC)
    assert lending.lend(second) == [Unmap(Gpa1(0x2000), PAGE_SIZE)]
    assert not lending.accepts(pal(3, [(0x1000, SectionKind.DATA)]).pages)
    assert not lending.accepts(pal(3, [(0x5000, SectionKind.DATA)]).pages)
    assert lending.give_back(first) == [Restore(Gpa1(0x1000), PAGE_SIZE)]
    assert lending.is_shared(0x5000)
    assert lending.give_back(second)[-1] == Restore(Gpa1(0x5000), PAGE_SIZE)
    assert not lending.is_shared(0x5000)


def test_measurement_and_pcr() -> None:
    memory = PhysicalMemory(1 << 20)
    pages = [(0x1000, SectionKind.CODE), (0x2000, SectionKind.DATA), (0x3000, SectionKind.STACK)]
    for at, kind in pages:
        memory.write(at, bytes([kind]) * 4096)
    head = struct.pack("<IIQII", 1, 3, 0x1000, 0, 1)
    sections = b"".join(struct.pack("<IIQ", kind, 1, at) for at, kind in pages)
    whole = head + sections + b"\1" * 4096 + b"\2" * 4096
    digest = measure(memory, pal(1, pages))
    assert digest == hashlib.sha256(whole).digest()
    assert extend(bytes(32), digest) == hashlib.sha256(bytes(32) + digest).digest()


@pytest.mark.parametrize(
    ("address", "length", "readable", "writable"),
    [
        (0x1FF0, 0x20, True, False),  # code, then data
        (0x2000, 4096, True, True),
        (0x2FF8, 16, True, True),
        (0x3FF8, 16, False, False),  # beyond the stack
        (0x0FF8, 8, False, False),
    ],
)
def test_a_pals_memory(address: int, length: int, readable: bool, writable: bool) -> None:
    memory = PhysicalMemory(1 << 20)
    pages = [(0x1000, SectionKind.CODE), (0x2000, SectionKind.DATA), (0x3000, SectionKind.STACK)]
    inside = PalMemory(memory, pal(1, pages))
    assert (inside.read(address, length) is not None) == readable
    assert inside.write(address, b"x" * length) == writable
    assert (memory.read(address, length) == b"x" * length) == writable
