"""What the engine has been told of a translation is not asked again until it is stale."""

import pytest
from engine_rig import CODE, FETCH, READ, WRITE, EngineRig

HLT = 0x178
MIB = 1 << 20
_COPY = "f3a4 f4"  # rep movsb; hlt


@pytest.fixture(params=[True, False], ids=["native", "fallback"])
def native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("distance", [MIB, 2 * MIB, 0x1000])
def test_pages_that_drive_each_other_out_of_the_engines_tlb(distance: int, native: bool) -> None:
    rig = EngineRig(_COPY, native=native)
    rig.state.gpr[1], rig.state.gpr[6], rig.state.gpr[7] = 0x800, MIB, MIB + distance
    rig.memory.write(MIB, bytes(range(256)) * 8)
    assert rig.run(1 << 20) == HLT
    assert rig.memory.read(MIB + distance, 0x800) == bytes(range(256)) * 8
    assert rig.host.fills == [(CODE, FETCH), (MIB, READ), (MIB + distance, WRITE)]


def _grant_large_pages(rig: EngineRig) -> None:
    """Let the host grant all of the second 2 MiB when it is asked about a page there."""
    fill = rig.host.fill

    def fill_large(page: int, kind: int) -> int | None:
        if page >= 2 * MIB and kind != FETCH:
            rig.engine.grant_large(page, page, kind)
        return fill(page, kind)

    rig.host.fill = fill_large  # type: ignore[method-assign]


_LOADS_STORE_JUMP = (
    "488b042500302000"  # mov rax, [203000h]
    "488b042500402000"  # mov rax, [204000h]
    "4889042500403000"  # mov [304000h], rax
    "4889042500503000"  # mov [305000h], rax
    "ff242500702000"  # jmp [207000h]
)


def _asked(rig: EngineRig) -> list[tuple[int, int]]:
    return [one for one in rig.host.fills if one[0] >= 2 * MIB]


def test_a_large_grant_is_for_all_data_of_its_kind(native: bool) -> None:
    rig = EngineRig(_LOADS_STORE_JUMP, native=native)
    rig.memory.store(0x20_7000, 8, 0x6000)
    rig.put(0x6000, "f4")
    _grant_large_pages(rig)
    for _ in range(2):
        rig.state.rip = CODE
        assert rig.run() == HLT
    asked = _asked(rig)
    assert asked == [(0x20_3000, READ), (0x30_4000, WRITE)]
    rig.host.fills.clear()
    rig.engine.is_stale = True
    rig.state.rip = CODE
    rig.run()
    assert _asked(rig) == asked


def test_fetches_and_stores_beside_code_are_asked_for_page_by_page(native: bool) -> None:
    rig = EngineRig(_LOADS_STORE_JUMP, native=native)
    rig.memory.store(0x20_7000, 8, 0x20_6000)
    rig.put(0x20_6000, "f4")
    _grant_large_pages(rig)
    rig.state.rip = 0x20_6000
    assert rig.run() == HLT
    for _ in range(2):
        rig.state.rip = CODE
        assert rig.run() == HLT
    fetch, load = (0x20_6000, FETCH), (0x20_3000, READ)
    assert _asked(rig) == [fetch, load, (0x30_4000, WRITE), (0x30_5000, WRITE)]


def test_a_large_grant_is_for_one_privilege_level(native: bool) -> None:
    rig = EngineRig("488b042500302000 488b042500402000 f4", native=native)
    _grant_large_pages(rig)
    rig.run()
    rig.host.fills.clear()
    rig.state.cpl = 3
    rig.state.rip = CODE
    rig.run()
    assert (0x20_3000, READ) in rig.host.fills
    assert (0x20_4000, READ) not in rig.host.fills


def test_what_is_not_all_ram_is_not_granted_as_a_whole(native: bool) -> None:
    rig = EngineRig("488b042500302000 488b042500402000 f4", native=native)
    fill = rig.host.fill

    def fill_elsewhere(page: int, kind: int) -> int | None:
        if page >= 2 * MIB:
            rig.engine.grant_large(page, page + 8 * MIB, kind)
        return fill(page, kind)

    rig.host.fill = fill_elsewhere  # type: ignore[method-assign]
    rig.run()
    assert rig.host.fills[1:] == [(0x20_3000, READ), (0x20_4000, READ)]
