"""``--app`` as a user types it: what is found, and one line for every mistake."""

from pathlib import Path

import pytest

from turducken.apps import AppError, load_app, parse_request
from turducken.apps.trustvisor.app import Sharing, TrustVisor, TrustVisorOptions
from turducken.cli.entry import run

HEAD = """
from dataclasses import dataclass
from turducken.hypervisor import Hypapp
@dataclass
class Options:
    count: int
    name: str = "x"
"""
APP = HEAD + "class App(Hypapp):\n    Options = Options\n    def __init__(self, options): pass\n"


def test_trustvisor_with_its_options() -> None:
    app = load_app("trustvisor:sharing=copied,shootdown=off")
    assert isinstance(app, TrustVisor)
    assert app.options == TrustVisorOptions(Sharing.COPIED, shootdown=False)
    assert load_app("trustvisor").name == "trustvisor"


def test_every_system_gets_an_application_of_its_own() -> None:
    request = parse_request("trustvisor")
    assert request.make() is not request.make()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nonsense", "not one of trustvisor, nor the path of a Python file (.py)"),
        ("missing.py", "no such file"),
        ("trustvisor:speed=1", "no option 'speed'; there are sharing, shootdown"),
        ("trustvisor:sharing", "'sharing' is not of the form key=value"),
        ("trustvisor:sharing=all", "sharing=all: not one of one, copied"),
        ("trustvisor:shootdown=maybe", "shootdown=maybe: not one of on, off"),
        ("trustvisor:sharing=one,sharing=one", "the option 'sharing' is given twice"),
    ],
)
def test_mistakes(text: str, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--app", text]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("source", "options", "expected"),
    [
        ("def", "", "SyntaxError"),
        ("import nothing_like_this", "", "ModuleNotFoundError"),
        ("1 / 0", "", "ZeroDivisionError: division by zero"),
        ("", "", "defines no class that derives from Hypapp"),
        (APP + "class Other(Hypapp): pass\n", ":count=1", "more than one class"),
        (APP, "", "the option 'count' must be given"),
        (APP, ":count=many", "count=many: not a number"),
        (HEAD + "class App(Hypapp): pass\n", ":a=1", "takes no options, but 'a' was given"),
        (APP.replace("pass", "raise KeyError(1)"), ":count=1", "App(): KeyError: 1"),
    ],
)
def test_mistakes_in_a_users_module(
    source: str, options: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "app.py"
    path.write_text(source)
    with pytest.raises(AppError) as caught:
        parse_request(f"{path}{options}")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("def on_start(self, hypervisor): nothing", "line 4: on_start: NameError"),
        ("def on_cpuid(self, vcpu, leaf, subleaf, answer): return 1", "not four numbers"),
        (
            "def on_cpuid(self, vcpu, leaf, subleaf, answer): return answer[4]",
            "line 4: on_cpuid: IndexError",
        ),
        ("def on_hypercall(self, vcpu): return 5", "on_hypercall returned 5"),
        (
            "def on_hypercall(self, vcpu):\n        yield from ()\n        vcpu.nothing",
            "line 6: on_hypercall: AttributeError",
        ),
    ],
)
def test_mistakes_while_it_runs(
    hook: str, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "app.py"
    path.write_text(f"from turducken.hypervisor import Hypapp\n\nclass App(Hypapp):\n    {hook}\n")
    arguments = ["run", "lhv-amd64", "--app", str(path), "--cmdline", "tests=vmcall", "--quiet"]
    assert run(arguments) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert expected in err


def test_applications_need_l0(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--app", "trustvisor", "--mode", "bare"]) == 2
    assert "--mode nested" in capfd.readouterr().err


def test_applications_that_want_different_things(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        "from turducken.hypervisor import Hypapp\n"
        "from turducken.hypervisor.hypapp import Ept01Sharing\n"
        "class Other(Hypapp):\n    ept01_sharing = Ept01Sharing.COPIED\n"
    )
    assert run(["run", "--app", "trustvisor:sharing=one", "--app", str(other)]) == 2
    err = capfd.readouterr().err
    assert "they want EPT01 shared in different ways" in err
    assert err.count("\n") == 1
