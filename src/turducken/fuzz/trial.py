"""One trial: one of lhv's tests nested, with noise, and a judgement."""

import contextlib
import gc
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from turducken.address import MIB
from turducken.fuzz.judge import Finding, FoundError, Judge
from turducken.fuzz.noise import Noise
from turducken.fuzz.watchdog import watchdog
from turducken.hypervisor import POLICIES, ShadowPolicyName, Vcpu
from turducken.hypervisor.vcpu import Handling
from turducken.system import (
    DEFAULT_IMAGE,
    Mode,
    SetupError,
    Stops,
    System,
    SystemOptions,
    find_image,
    shipped_images,
)
from turducken.vmx.exit_reasons import ExitReason
from turducken.vmx.vmcs_fields import END_SLOT

DEFAULT_LIMIT = 2_000_000
"""Instructions of a trial."""

_TESTS = [
    "ept-identity",
    "ept-remap-invept",
    "ept-rights-*",
    "ept-large-*",
    "vmcall",
    "msr-lists",
    "io-bitmap*",
    "tpr-shadow*",
    "pml-*",
    "vmfunc-*",
    "vmcs-shadowing-*",
    "event-injection",
    "vpid-*",
    "ept-accessed-dirty",
    "msr-bitmap*",
    "apic-access*",
    "ept-violation-*",
    "interrupt-*",
    "pae-pdpte*",
    "mode-*",
    "no-vpid-*",
]
_AMD64_ONLY = frozenset({"tpr-shadow*"})
_TWO_PROCESSORS = ["smp-shootdown-*", "smp-share-ept", "smp-vmcs-moves", "smp-own-epts"]
_MEMORY = 64 * MIB
_PRIVATE = (2 * MIB, 3 * MIB, 16 * MIB)
"""What L0 gets: little, so that it uses it up, or much."""
_MOST_EXITS = 20_000
_TESTS_OF_A_TRIAL = 10
_TRIES = (1, 2, 10, 50)
_ALL_SLOTS = range(END_SLOT)
_ENTRIES = (ExitReason.VMLAUNCH, ExitReason.VMRESUME)


class _EnoughError(Exception):
    """L1 and L2 keep each other busy: that is no finding."""


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What is not left to the seed."""

    shadow: str | None = None
    tlb: str | None = None
    cpus: int | None = None
    limit: int = DEFAULT_LIMIT

    def check(self) -> None:
        """Raise SetupError where there are no such trials."""
        image = find_image(DEFAULT_IMAGE)
        chosen = SystemOptions(image, tlb=self.tlb or "keep", cpus=self.cpus or 1)
        replace(chosen, shadow=shadow_policy(self.shadow or chosen.shadow)).check()


def shadow_policy(name: str) -> ShadowPolicyName:
    """Return a name of a policy that has been, or will be, looked at."""
    return cast(ShadowPolicyName, name)  # `SystemOptions.check` looks


class Trial:
    """A hostile L1 on a system of its own, all of it from ``seed``."""

    def __init__(self, seed: int, options: TrialOptions | None = None) -> None:
        options = options or TrialOptions()
        self._limit = options.limit
        self._random = pick = random.Random(seed)
        cpus = pick.choice((1, 1, 2))
        image = pick.choice([one for one in shipped_images() if one.startswith("lhv")])
        shadow = pick.choice(list(POLICIES))
        tlb = pick.choice(("keep", "drop", "random"))
        private = pick.choice(_PRIVATE)
        cpus = options.cpus or cpus
        chosen = pick.sample(
            _TESTS if cpus == 1 else _TESTS + _TWO_PROCESSORS * 2, _TESTS_OF_A_TRIAL
        )
        # lhv refuses names of tests that it does not have.
        tests = ",".join(one for one in chosen if image == "lhv-amd64" or one not in _AMD64_ONLY)
        self.system = System(
            SystemOptions(
                find_image(image),
                mode=Mode.NESTED,
                cpus=cpus,
                memory=_MEMORY,
                private=private + cpus * MIB,
                text=f"tests={tests}",
                tlb=options.tlb or tlb,
                seed=seed,
                shadow=shadow_policy(options.shadow or shadow),
                watch=(),
                observed=True,
            )
        )
        hypervisor = self.system.hypervisor
        assert hypervisor is not None
        self.entries = 0
        self._exits = 0
        self._noise = Noise(hypervisor, _MEMORY, pick)
        self.judge = Judge(self.system)
        handlers = hypervisor.l1_handlers.items()
        hypervisor.l1_handlers = {
            reason: self._l1_handler(handler, is_entry=reason in _ENTRIES)
            for reason, handler in handlers
        }
        hypervisor.l2_handler = self._l2_handler(hypervisor.l2_handler)

    def _l1_handler(
        self, handler: Callable[[Vcpu], Handling], *, is_entry: bool
    ) -> Callable[[Vcpu], Handling]:
        def handle(vcpu: Vcpu) -> Handling:
            self._exited(vcpu)
            return self._try_to_enter(vcpu, handler) if is_entry else handler(vcpu)

        return handle

    def _try_to_enter(self, vcpu: Vcpu, handler: Callable[[Vcpu], Handling]) -> Handling:
        """Make noise and let L1 enter its L2; where that fails, try again with other noise."""
        current = vcpu.unit.current
        kept01 = vcpu.vmcs01.pack(_ALL_SLOTS)
        kept12 = b"" if current is None else current.pack(_ALL_SLOTS)
        handling: Handling = None
        for left in reversed(range(self._random.choice(_TRIES))):
            self._make_noise(vcpu)
            handling = handler(vcpu)
            if handling is not None or vcpu.in_l2 or not left:
                break
            vcpu.vmcs01.unpack(_ALL_SLOTS, kept01)
            if current is not None and vcpu.unit.current is current:
                current.unpack(_ALL_SLOTS, kept12)
            vcpu.follow_vmcs12()
        return handling

    def _l2_handler(self, handler: Callable[[Vcpu], Handling]) -> Callable[[Vcpu], Handling]:
        def handle(vcpu: Vcpu) -> Handling:
            self._exited(vcpu)
            return handler(vcpu)

        return handle

    def _exited(self, vcpu: Vcpu) -> None:
        self.judge.exited(vcpu)
        self._exits += 1
        if self._exits > _MOST_EXITS:
            raise _EnoughError

    def _make_noise(self, vcpu: Vcpu) -> None:
        self.entries += 1
        pick = self._random
        if vcpu.unit.current is not None and pick.randrange(3):
            self._noise.disturb(vcpu)
        if not pick.randrange(40):
            self._noise.misdirect(vcpu)

    def run(self) -> None:
        """Run; FoundError where something is wrong, and whatever L0 raises."""
        with contextlib.suppress(_EnoughError):
            self.system.run(Stops(max_instructions=self._limit), self.judge.turn)
        self.judge.look()


def run_trial(seed: int, options: TrialOptions | None = None) -> Finding | None:
    """Run the trial of ``seed``; return what is wrong with L0, if anything is."""
    with reported() as outcome:
        Trial(seed, options).run()
    return outcome.finding


class Reported:
    """What `reported` has caught."""

    finding: Finding | None = None


@contextlib.contextmanager
def reported() -> Iterator[Reported]:
    """Make a finding of whatever L0 or the machine raises in here, and of what takes too long."""
    outcome = Reported()
    try:
        with watchdog():
            yield outcome
    except SetupError:
        raise
    except FoundError as found:
        outcome.finding = found.finding
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
        outcome.finding = Finding("error", f"{type(error).__name__} at {place}: {error}")
    finally:
        gc.collect()  # a machine is large, and made of cycles
