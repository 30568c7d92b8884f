"""A TLB whose invalidations others follow: for `--tlb broadcast` and for the sanitizer.

`Tlb` itself knows nobody, and so costs nothing where nobody follows.
"""

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec

from turducken.mmu.tlb import Tlb

Follower = Callable[[str, tuple[Any, ...]], None]
"""Receives an operation of `Tlb` by its name, with its operands, once it is done."""


_P = ParamSpec("_P")


def _followed(
    operation: Callable[Concatenate[Tlb, _P], None],
) -> Callable[Concatenate["FollowedTlb", _P], None]:
    name = operation.__name__

    def followed(self: "FollowedTlb", /, *operands: _P.args, **named: _P.kwargs) -> None:
        operation(self, *operands, **named)
        for follow in self.followers:
            follow(name, (*operands, *named.values()))

    return followed


class FollowedTlb(Tlb):
    """As `Tlb`; tells ``followers`` of every operation that the manual makes drop something."""

    def __init__(self, on_drop: Callable[[], None]) -> None:
        super().__init__(on_drop)
        self.followers: list[Follower] = []

    invlpg = _followed(Tlb.invlpg)
    invpcid_address = _followed(Tlb.invpcid_address)
    flush_pcid = _followed(Tlb.flush_pcid)
    flush_pcid_and_globals = _followed(Tlb.flush_pcid_and_globals)
    flush_non_global = _followed(Tlb.flush_non_global)
    flush_vpid = _followed(Tlb.flush_vpid)
    invvpid_address = _followed(Tlb.invvpid_address)
    invvpid_all = _followed(Tlb.invvpid_all)
    invvpid_retaining_globals = _followed(Tlb.invvpid_retaining_globals)
    invept_single = _followed(Tlb.invept_single)
    invept_all = _followed(Tlb.invept_all)
    page_fault = _followed(Tlb.page_fault)
    ept_violation = _followed(Tlb.ept_violation)


def apply(tlb: Tlb, name: str, operands: tuple[Any, ...]) -> None:
    """Let ``tlb`` do an operation that another TLB has done; nobody is told."""
    getattr(Tlb, name)(tlb, *operands)


def is_instruction(name: str, operands: tuple[Any, ...]) -> bool:
    """Tell whether an operation is that of INVLPG, INVPCID, INVVPID or INVEPT.

    The others belong to MOV to CR, VM transitions and faults.
    """
    if name.startswith("inv"):
        return True
    return name.startswith("flush") and _cause(name, operands).startswith("INV")


def _cause(name: str, operands: tuple[Any, ...]) -> str:
    if isinstance(operands[-1], str):
        return operands[-1]
    return "INVPCID" if name == "flush_non_global" else "MOV CR3"


def broadcast(tlbs: Sequence[FollowedTlb]) -> None:
    """Let every invalidating instruction of one processor act on all of them."""
    for tlb in tlbs:
        others = [one for one in tlbs if one is not tlb]

        def act(name: str, operands: tuple[Any, ...], others: list[FollowedTlb] = others) -> None:
            if is_instruction(name, operands):
                for other in others:
                    apply(other, name, operands)

        tlb.followers.append(act)
