"""One program on two machines: bare, where L1 is the hypervisor itself, and under L0."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from turducken.fuzz.judge import Finding
from turducken.fuzz.pieces import make_program
from turducken.fuzz.program import IMAGE, Level, Piece, Program, Write, put_into, smaller
from turducken.fuzz.trial import TrialOptions, reported, shadow_policy
from turducken.hypervisor import POLICIES, ShadowPolicyName
from turducken.machine.boot import AnyImage, parse_image
from turducken.system import Mode, Stops, System, SystemOptions, shipped_images
from turducken.system.offered import profile_of_l1
from turducken.vmx.vmcs_fields import FIELDS

MOST_INSTRUCTIONS = 4_000_000
_MEMORY = 64 << 20
_VERBOSE = "seed=2"
_BY_ENCODING = {one.encoding: one for one in FIELDS.values()}


@dataclass(frozen=True, slots=True)
class Said:
    """What a machine made of a program: a line for each piece, by number, and the end."""

    lines: dict[int, str]
    end: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two machines part, in a program made as small as may be."""

    program: tuple[Piece, ...]
    here: str
    there: str

    @property
    def pieces(self) -> list[Piece]:
        """What is left of the program."""
        return [one for one in self.program if one.level is not Level.NOTHING]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what both machines run."""

    shadow: ShadowPolicyName = "cached"
    tlb: str = "keep"

    @classmethod
    def of(cls, seed: int, options: TrialOptions) -> "Conditions":
        """Return what is fixed, and for the rest what the seed chooses."""
        policies = list(POLICIES)
        shadow = options.shadow or policies[seed % len(policies)]
        tlb = options.tlb or ("keep", "drop")[seed // len(policies) % 2]
        return cls(shadow_policy(shadow), tlb)


_DEFAULT = Conditions()


def run_nested(program: Program, given: Conditions = _DEFAULT, *, verbose: bool = False) -> Said:
    """Run a program under L0."""
    return _run(program, given, Mode.NESTED, verbose=verbose)


def run_bare(program: Program, given: Conditions = _DEFAULT, *, verbose: bool = False) -> Said:
    """Run a program without L0, on a processor with what L0 shows L1."""
    return _run(program, given, Mode.BARE, verbose=verbose)


def image_of(program: Program) -> AnyImage:
    """Return the image with a program in it."""
    return parse_image(put_into(shipped_images()[IMAGE].read_bytes(), program), IMAGE)


def _run(program: Program, given: Conditions, mode: Mode, *, verbose: bool) -> Said:
    options = SystemOptions(
        image_of(program),
        mode=mode,
        memory=_MEMORY,
        text=_VERBOSE if verbose else "",
        shadow=given.shadow,
        tlb=given.tlb,
        watch=(),
    )
    if mode is Mode.BARE:
        shown = profile_of_l1(options.profile, options.offer)
        options = replace(options, profile=shown)
    result = System(options).run(Stops(max_instructions=MOST_INSTRUCTIONS))
    wrong = "; ".join(one.why for one in result.stopped if one.kind.is_mistake)
    return understand(result.console, wrong or f"{result.outcome.value} {result.code}")


def understand(console: str, end: str) -> Said:
    """Take the lines of pieces from what an image said."""
    lines = {}
    for line in console.splitlines():
        number, _, rest = line.partition(" ")
        if number.isdigit() and rest.startswith(("L1", "L2")):
            lines[int(number)] = rest
    return Said(lines, end)


def first_difference(one: Said, other: Said) -> int | None:
    """Return the number of the first piece that differs (-1: only the end does), or None."""
    for number in sorted(one.lines.keys() | other.lines.keys()):
        if one.lines.get(number) != other.lines.get(number):
            return number
    return None if one.end == other.end else -1


def compare_seed(seed: int, options: TrialOptions | None = None) -> Difference | None:
    """Compare what a seed's program does bare and under L0; shrink what differs."""
    given = Conditions.of(seed, options or TrialOptions())

    def differs(program: Program) -> bool:
        return first_difference(run_nested(program, given), run_bare(program, given)) is not None

    program = make_program(seed)
    if not differs(program):
        return None
    program = shrink(program, differs)
    here, there = run_nested(program, given, verbose=True), run_bare(program, given, verbose=True)
    number = first_difference(here, there)
    if number is None or number < 0:
        return Difference(tuple(program), here.end, there.end)
    lines = (one.lines.get(number, f"nothing ({one.end})") for one in (here, there))
    return Difference(tuple(program), *lines)


def run_sequence(seed: int, options: TrialOptions | None = None) -> Finding | None:
    """Compare as `compare_seed`; what L0 or the machine raises is a finding, too."""
    with reported() as outcome:
        difference = compare_seed(seed, options)
        if difference is not None:
            return Finding("difference", "\n".join(in_words(difference)))
    return outcome.finding


def shrink(program: list[Piece], is_bad: Callable[[Program], bool]) -> list[Piece]:
    """Return a program that is still bad, of which nothing can be left out."""
    while True:
        found = next((one for one in smaller(program) if is_bad(one)), None)
        if found is None:
            return program
        program = found


def in_words(difference: Difference) -> Iterable[str]:
    """Yield lines that tell of a difference: the pieces, and what each machine saw differently."""
    for one in difference.pieces:
        registers = " ".join(f"{value:x}" for value in one.registers)
        yield f"{one.level.name}: {one.text}   ({registers})"
        for write in one.writes:
            yield f"      {_name(write)}"
    here, there = difference.here.split(), difference.there.split()
    if len(here) == len(there) and len(here) > 2:
        apart = [(a, b) for a, b in zip(here, there, strict=True) if a != b]
        yield "nested: " + " ".join(a for a, _ in apart)
        yield "bare:   " + " ".join(b for _, b in apart)
    else:
        yield f"nested: {difference.here}"
        yield f"bare:   {difference.there}"


def _name(write: Write) -> str:
    sign = "^=" if write.flip else "="
    return f"{_BY_ENCODING[write.field].name} {sign} {write.value:#x}"
