"""What a profile hides behaves as on a processor without it; what it offers works."""

import pytest
from cpu_support import ALL, CODE, MIB, RAX, RBX, RCX, RDX, RSP, Pc

from turducken.cpu.vmx_operations import update_intercepts
from turducken.paging.formats import PAGING_5LEVEL, Features
from turducken.paging.table import BumpAllocator, PageTable
from turducken.vmx.profile import load_profile

UD, GP, DB = 6, 13, 1
OSFXSR, OSXSAVE, UMIP = 0x600, 1 << 18, 1 << 11
PLACE = 0x3_0000
HLT = "f4"


@pytest.fixture
def without(tmp_path):
    """Return a function that makes a profile without some features, and with other lines."""

    def make(*features, more=""):
        lines = "".join(f"{one} = false\n" for one in features)
        path = tmp_path / "mine.toml"
        path.write_text(f'base = "default"\n{more}[features]\n{lines}')
        return str(path)

    return make


def run(code, profile="default", *, mode="long", cr4=OSFXSR | OSXSAVE, **more):
    pc = getattr(Pc(profile=profile), mode)(f"{code} {HLT}", **more)
    pc.state.cr4 |= cr4
    pc.state.gpr[RBX], pc.state.gpr[RCX] = PLACE, 0xF0
    pc._ready(pc.state.cpl)
    update_intercepts(pc.p)
    return pc


ONLY_IN_THE_PROFILE = [
    ("sse4_1", "66 0f3810c1"),
    ("sse4_2", "66 0f3837c1"),
    ("sse4_2", "f20f38f0c1"),  # crc32
    ("ssse3", "66 0f3800c1"),
    ("sse3", "f20fd0c1"),
    ("sse3", "db0b"),  # fisttp
    ("aes", "66 0f38dcc1"),
    ("pclmulqdq", "66 0f3a44c100"),
    ("movbe", "0f38f003"),
    ("movbe", "0f38f103"),
    ("adx", "66 0f38f6c1"),
    ("popcnt", "f30fb8c1"),
    ("bmi1", "c4e278f2c1"),  # andn
    ("bmi2", "c4e278f5c1"),  # bzhi
    ("cx16", "480fc70b"),
    ("clflushopt", "66 0fae3b"),
    ("xsaveopt", "0fae33"),
    ("rdtscp", "0f01f9"),
    ("smap", "0f01ca"),
    ("rdrand", "0fc7f0"),
    ("rdseed", "0fc7f8"),
]


@pytest.mark.parametrize(("feature", "code"), ONLY_IN_THE_PROFILE)
def test_hidden_instructions_are_undefined(feature, code, without):
    needing = {"rdtscp": "enable_rdtscp", "rdrand": "rdrand_exiting", "rdseed": "rdseed_exiting"}
    control = needing.get(feature)
    more = f"[vmx.controls.secondary]\n{control} = false\n" if control else ""
    assert run(code).event() != UD
    pc = run(code, without(feature, more=more))
    assert pc.event() == UD
    assert pc.words(pc.state.gpr[RSP], 1, 8) == [CODE]


@pytest.mark.parametrize(
    ("feature", "code", "value", "expected"),
    [
        ("bmi1", "f30fbcc1", 0xF0, 4),  # tzcnt eax, ecx
        ("bmi1", "f30fbc03", 0x8000, 15),  # tzcnt eax, [rbx]
        ("bmi1", "66 f30fbcc1", 0x100, 0xFFFF_FFFF_FFFF_0008),
        ("lzcnt", "f30fbdc1", 0xF0, 7),  # as bsr: the index, not the count
        ("lzcnt", "f3480fbdc1", 1 << 40, 40),
        ("lzcnt", "f30fbdc1", 0, 0xFFFF_FFFF_FFFF_FFFF),  # the destination stays
    ],
)
def test_hidden_counts_are_the_scans_that_they_were(feature, code, value, expected, without):
    pc = run(code, without(feature))
    pc.memory.store(PLACE, 8, value)
    pc.state.gpr[RAX], pc.state.gpr[RCX] = 0xFFFF_FFFF_FFFF_FFFF, value
    assert pc.event() is None
    assert pc.state.gpr[RAX] == expected
    assert bool(pc.state.rflags & 0x40) == (value == 0)


@pytest.mark.parametrize(
    "code", ["66 0f79c1", "66 0f78c00102", "f20f2b03", "f30faef0", "66 0faef0", "8fe97812c0"]
)
def test_what_other_makers_have_is_undefined(code):
    assert run(code).event() == UD


@pytest.mark.parametrize("code", ["0fc723", "0fc72b", "0fc71b"])
def test_the_compacted_format_of_xsave_is_not_there(code):
    """XSAVEC, XSAVES, XRSTORS; and so no IA32_XSS."""
    assert run(code).event() == UD
    assert run("b9a00d0000 0f32").event() == GP
    assert cpuid(run(code), 0xD, 1)[0] & 0xA == 0


def test_sti_blocks_for_one_instruction_even_where_interrupts_are_on():
    """A processor would not: docs/machine.md says so."""
    pc = run("fb 0fa2")
    pc.state.rflags |= 1 << 9
    pc.p.engine.run(100)  # to CPUID
    assert pc.state.rip == CODE + 1
    assert pc.state.in_shadow


def test_counts_are_counts_where_they_are_offered():
    pc = run("f30fbdc1")
    pc.event()
    assert pc.state.gpr[RAX] == 24


@pytest.mark.parametrize("code", ["0f0103", "0f010b", "0f0003", "0f00c8", "0f00c0", "0f0123"])
def test_umip_keeps_tables_from_user_mode(code):
    """SGDT, SIDT, SLDT, STR, SLDT EAX, SMSW."""
    free = run(f"{code} 90", cpl=3)
    assert free.event() == GP  # at HLT
    assert free.words(free.state.gpr[RSP] + 8, 1, 8)[0] > CODE
    kept = run(f"{code} 90", cpl=3, cr4=UMIP)
    assert kept.event() == GP
    assert kept.words(kept.state.gpr[RSP], 2, 8) == [0, CODE]
    kernel = run(code, cr4=UMIP)
    assert kernel.event() is None


def test_umip_begins_and_ends_with_cr4():
    # mov rax, cr4; bts eax, 11; mov cr4, rax; sidt [rbx]; btr eax, 11; mov cr4, rax; sgdt [rbx]
    pc = run("0f20e0 0fbae80b 0f22e0 0f010b 0fbaf00b 0f22e0 0f0103")
    assert pc.event() is None
    assert pc.memory.load(PLACE, 2) == pc.state.table(8)[1]


def test_xsave_obeys_xcr0():
    """XSETBV, then XSAVE of everything: only what XCR0 has is in XSTATE_BV."""
    for enabled in (1, 3):
        pc = run(f"31c9 31d2 b80{enabled}000000 0f01d1 b8ffffffff 89c2 0fae23")
        pc.memory.write(PLACE, bytes(1024))
        assert pc.event() is None
        assert pc.state.xcr0 == enabled
        assert pc.memory.load(PLACE + 512, 8) & ~enabled == 0


@pytest.mark.parametrize("value", [0, 2, 4, 7])
def test_values_that_xcr0_does_not_take(value):
    assert run(f"31c9 31d2 b80{value}000000 0f01d1").event() == GP


def test_single_stepping_on_branches():
    """With IA32_DEBUGCTL.BTF, TF traps behind a taken branch only, and both flags go."""
    # mov ecx, 1d9h; mov eax, 2; xor edx, edx; wrmsr; pushf; or dword [rsp], 100h; popf;
    # nop; inc ebx; jc +0 (not taken); jmp +1; nop; nop
    code = "b9d9010000 b802000000 31d2 0f30 9c 810c2400010000 9d 90 ffc3 7200 eb01 90 90"
    pc = run(code)
    assert pc.event() == DB
    target = CODE + len(bytes.fromhex(code)) - 1
    assert pc.words(pc.state.gpr[RSP], 1, 8) == [target]
    assert pc.p.dr[6] & 1 << 14
    assert pc.p.msrs.debugctl == 0


def cpuid(pc, leaf, subleaf=0):
    return pc.p.cpuid_leaf(leaf, subleaf)


def test_cpuid_follows_the_apic():
    # mov ecx, 1bh; rdmsr; btr eax, 11; wrmsr
    pc = run("b91b000000 0f32 0fbaf00b 0f30")
    assert cpuid(pc, 1)[3] >> 9 & 1
    pc.event()
    assert not cpuid(pc, 1)[3] >> 9 & 1


def test_the_microcode_revision_lets_systems_trust_the_deadline_timer():
    """Each model has a revision below which its errata keep systems from using it."""
    least = {"default": 0xB2, "haswell": 0x22, "skylake": 0x0200_0014}
    for name, revision in least.items():
        assert load_profile(name).cpu.microcode >= revision
    pc = run("b98b000000 0f32")
    pc.event()
    assert pc.state.gpr[RDX] == load_profile().cpu.microcode


def test_without_a_deadline_timer_there_is_no_msr(without):
    assert run("b9e0060000 0f32").event() is None
    assert run("b9e0060000 0f32", without("tsc_deadline")).event() == GP


COUNTERS = "[cpu]\nperformance_counters = 4\nfixed_counters = 3\n"


def test_without_counters_there_is_no_performance_monitoring():
    pc = run("b98f030000 0f32")
    assert cpuid(pc, 0xA) == (0, 0, 0, 0)
    assert pc.event() == GP
    assert run("31c9 0f33").event() == GP


def test_counters_hold_what_is_written(without):
    profile = without(more=COUNTERS)
    pc = run("b98f030000 b80f000000 ba07000000 0f30", profile)
    assert cpuid(pc, 0xA)[0] & 0xFFFF == 0x402
    assert cpuid(pc, 0xA)[3] & 0x1F == 3
    assert pc.event() is None
    assert pc.p.msrs.read(0x38F) == 0x7_0000_000F
    assert run("b98f030000 b810000000 31d2 0f30", profile).event() == GP
    # IA32_PMC1 = -5; RDPMC of counter 1
    pc = run("b9c2000000 b8fbffffff 31d2 0f30 b901000000 0f33", profile)
    assert pc.event() is None
    assert pc.state.gpr[RDX] << 32 | pc.state.gpr[RAX] == (1 << 48) - 5
    assert run("b904000000 0f33", profile).event() == GP


def test_invept_without_the_capability_is_undefined_in_root_operation():
    pc = run("660f388003", "minimal")
    pc.p.vmx.in_operation = True
    assert pc.event() == UD


# Five levels


LA57 = 1 << 12
LA57_ADDRESS = 0x00FF_8000_0000_0000 >> 1  # canonical for 57 bits only


@pytest.fixture
def five_levels(tmp_path):
    path = tmp_path / "wide.toml"
    path.write_text('base = "default"\n[cpu]\nlinear_address_bits = 57\n[features]\nla57 = true\n')
    return str(path)


def wide(code, profile, *, la57=True):
    """Return a PC in 64-bit mode whose page at `LA57_ADDRESS` is that at `PLACE`."""
    pc = Pc(profile=profile).long(f"{code} {HLT}")
    if la57:
        table = PageTable.create(
            PAGING_5LEVEL.bind(Features()), pc.memory, BumpAllocator(2 * MIB, 3 * MIB)
        )
        table.map(0, 0, 4 * MIB, ALL, max_shift=12)
        table.map(LA57_ADDRESS, PLACE, 0x1000, ALL, max_shift=12)
        pc.state.cr3 = table.root
        pc.state.cr4 |= LA57
    pc.state.gpr[RBX] = LA57_ADDRESS
    pc.memory.store(PLACE, 8, 0x5757)
    pc._ready(0)
    return pc


def test_an_address_of_57_bits(five_levels):
    pc = wide("488b03", five_levels)  # mov rax, [rbx]
    assert pc.event() is None
    assert pc.state.gpr[RAX] == 0x5757
    assert wide("488b03", five_levels, la57=False).event() == GP


@pytest.mark.parametrize(
    "code",
    [
        "53 c3",  # push rbx; ret: fetches there
        "b9820000c0 4889da 48c1ea20 89d8 0f30",  # wrmsr of LSTAR
        "0f013b",  # invlpg [rbx]
        "488d3d00000000 ffe3",  # jmp rbx
    ],
)
def test_what_takes_an_address_of_57_bits(code, five_levels):
    pc = wide(code, five_levels)
    pc.memory.store(PLACE, 1, 0xF4)
    assert pc.event() is None


def test_msrs_take_what_the_processor_implements_whatever_cr4_says(five_levels):
    """Only the paging of the moment decides about accesses; registers are checked for the most."""
    wrmsr = "b9820000c0 4889da 48c1ea20 89d8 0f30"
    assert wide(wrmsr, five_levels, la57=False).event() is None
    assert wide(wrmsr, "default", la57=False).event() == GP


def test_la57_cannot_change_in_ia32e_mode(five_levels):
    # mov rax, cr4; btc eax, 12; mov cr4, rax
    assert wide("0f20e0 0fbaf80c 0f22e0", five_levels).event() == GP
    assert wide("0f20e0 0fbaf80c 0f22e0", five_levels, la57=False).event() == GP


def test_cpuid_tells_of_five_levels(five_levels):
    pc = wide("90", five_levels)
    assert cpuid(pc, 7)[2] >> 16 & 1
    assert cpuid(pc, 0x8000_0008)[0] >> 8 & 0xFF == 57
