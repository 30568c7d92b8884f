"""Running one form of a scenario, and judging whether it did what it should."""

from dataclasses import dataclass

from turducken.apps import AppRequest
from turducken.check import Finding, Sanitizer
from turducken.check.changes import Actor
from turducken.hypervisor import Hypervisor, ShadowPolicyName
from turducken.hypervisor.events import Event, Exited
from turducken.symbols import Names
from turducken.system import Mode, Stops, System, SystemOptions, find_image
from turducken.vmx.exit_reasons import ExitReason
from turducken.zoo.app import ZooApp
from turducken.zoo.evidence import evidence_of, is_skipped
from turducken.zoo.planted import PLANTED
from turducken.zoo.scenario import Culprit, Form, Scenario

_OWN = "scenario_"
"""What the names of the functions begin with in which the zoo's scenarios are."""
NOTE_PAGE = 0x123_4000
"""The page of L2's that scenarios are about."""
MOST_INSTRUCTIONS = 20_000_000
MOST_RETRIES = 200
"""EPT violations at one place, all handled by L0, after which nothing will come of it."""


class _StuckError(Exception):
    """L0 handles the same EPT violation again and again."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a scenario runs.

    ``mode`` None: L0's mistakes nested, others bare, where nothing stands between the guest and
    the processor.
    """

    mode: Mode | None = None
    tlb: str = "keep"
    shadow: ShadowPolicyName = "cached"
    seed: int = 0

    def mode_of(self, scenario: Scenario) -> Mode:
        """Return where a scenario's image runs."""
        if scenario.culprit is Culprit.L0:
            return Mode.NESTED
        return self.mode or Mode.BARE


@dataclass(frozen=True, slots=True)
class FormResult:
    """What one form of a scenario came to."""

    scenario: Scenario
    form: Form
    mode: Mode
    evidence: tuple[str, ...]
    """What the guest or L0's tables show; nothing where all went well."""
    findings: tuple[Finding, ...]
    """What the sanitizer has found."""
    names: Names
    """Of the image's functions, for the findings."""
    passed: bool
    """The guest said that all is well."""
    is_skipped: bool
    """The guest could not do what it was to do."""
    instructions: int
    host_seconds: float
    console: str

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that count: missing invalidations, and useless ones of a scenario's own.

        What lhv executes to set a scenario up may be useless; it does so to be on the safe side.
        """
        return tuple(
            one for one in self.findings if one.kind == "missing" or self._is_own(one.modifier)
        )

    def _is_own(self, actor: Actor) -> bool:
        name = None if actor.address is None else self.names.describe(actor.address)
        return name is not None and name.startswith(_OWN)

    @property
    def shows(self) -> bool:
        """What is expected of the faulty form has been seen from inside, or in L0's tables."""
        expected = self.scenario.failure
        return bool(expected) and any(expected in line for line in self.evidence)

    @property
    def is_found(self) -> bool:
        """The sanitizer has found what it should find in the faulty form."""
        return any(one.rule == self.scenario.rule for one in self.problems)

    @property
    def behaved(self) -> bool:
        """The faulty form was caught as it should be, or the fixed one was clean."""
        if self.form is Form.FAULTY:
            return self.shows or self.is_found
        return self.passed and not (self.is_skipped or self.evidence or self.problems)


def options_for(scenario: Scenario, form: Form, conditions: Conditions) -> SystemOptions:
    """Return the system that runs one form of a scenario."""
    mistake = scenario.fault if form is Form.FAULTY else None
    options = SystemOptions(
        image=find_image(scenario.image),
        mode=conditions.mode_of(scenario),
        cpus=scenario.cpus,
        memory=scenario.memory,
        text=scenario.command_line(form),
        tlb=conditions.tlb,
        shadow=conditions.shadow,
        seed=conditions.seed,
        watch=(NOTE_PAGE,),
        observed=True,
        l0=Hypervisor if mistake is None else PLANTED[mistake],
        apps=(AppRequest("zoo", ZooApp),) if scenario.needs_app else (),
    )
    options.check()
    return options


def run_form(scenario: Scenario, form: Form, conditions: Conditions | None = None) -> FormResult:
    """Run one form to its end; what goes wrong in it, in L0 too, is a result like any other."""
    options = options_for(scenario, form, conditions or Conditions())
    system = System(options)
    sanitizer = Sanitizer(system.machine, system.hypervisor)
    if system.hypervisor is not None:
        system.hypervisor.events.subscribers.append(_Patience())
    trouble: list[str] = []
    try:
        result = system.run(Stops(max_instructions=MOST_INSTRUCTIONS))
    except _StuckError as error:
        trouble.append(f"L0: {error}")
        result = system.result()
    trouble += [f"L0: {one.why}" for one in result.stopped if one.kind.is_mistake]
    return FormResult(
        scenario,
        form,
        options.mode,
        tuple(trouble) or evidence_of(result, NOTE_PAGE),
        tuple(sanitizer.findings),
        system.names,
        passed=result.exit_status == 0 and not trouble,
        is_skipped=is_skipped(result.console),
        instructions=result.instructions,
        host_seconds=result.host_seconds,
        console=result.console,
    )


class _Patience:
    """Watches L0's exits for one that is handled again and again."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int] | None = None
        self._times = 0

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Exited) or event.handler != "L0":
            return
        if event.reason != ExitReason.EPT_VIOLATION:
            return
        place = event.processor, event.rip, event.qualification
        self._times = self._times + 1 if place == self._last else 1
        self._last = place
        if self._times > MOST_RETRIES:
            raise _StuckError(
                f"L{event.level} does not get on at {event.rip:#x}: EPT violation after EPT "
                "violation"
            )
