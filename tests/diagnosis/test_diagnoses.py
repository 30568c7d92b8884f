"""Diagnoses are kept once each, and what came last is never missing."""

from turducken.diagnosis import Diagnoses, Diagnosis, Kind, Place
from turducken.diagnosis.collector import MOST_OF_A_KIND

HERE, THERE = Place(0, 1, 0x1000, 0x1000), Place(1, 1, 0x2000, 0x2000)


def make(outcome: str) -> Diagnosis:
    return Diagnosis(Kind.VMFAIL, "VMXON", outcome)


def test_equal_ones_are_counted_once_and_made_once() -> None:
    diagnoses, made = Diagnoses(), []

    def maker() -> Diagnosis:
        made.append(1)
        return make("fails")

    for time in (5, 6, 7):
        diagnoses.report(HERE, time, ("VMXON", 1), maker)
    diagnoses.report(THERE, 8, ("VMXON", 1), maker)
    first, second = diagnoses.sightings
    assert (first.count, first.time, first.last_time, first.last) == (3, 5, 7, 3)
    assert (second.count, second.first) == (1, 4)
    assert len(made) == 2


def test_listeners_hear_of_each_once() -> None:
    diagnoses, heard = Diagnoses(), []
    diagnoses.on_new.append(heard.append)
    for _ in range(3):
        diagnoses.report(HERE, 0, ("VMXON", 1), lambda: make("fails"))
    assert len(heard) == 1


def test_too_many_of_a_kind_give_way_to_the_newest() -> None:
    diagnoses = Diagnoses()
    for number in range(MOST_OF_A_KIND + 10):
        diagnoses.report(HERE, number, ("VMREAD", number), lambda n=number: make(str(n)))
    diagnoses.report(HERE, 99, ("VMXON", 1), lambda: make("another kind"))
    outcomes = [one.diagnosis.outcome for one in diagnoses.sightings]
    assert len(outcomes) == MOST_OF_A_KIND + 1
    assert outcomes[0] == "0"
    assert outcomes[-2:] == [str(MOST_OF_A_KIND + 9), "another kind"]
    assert diagnoses.omitted == 10
