"""``turducken run --report``: what the page tells, and how a real browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_images import UNDEFINED, say, tiny_file

from turducken.cli.entry import run
from turducken.report.page.bins import MOST, Bins

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "br", "hr", "img", "input", "link"}
PHONE, DESK = 390, 1280


class Page(HTMLParser):
    """The elements of a page: they have to be closed in order, and to need nothing from outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.faults: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.faults += [f"{one} is not closed" for one in self.open]
        self.faults += [f"no target {one}" for one in self.links if one[1:] not in self.ids]
        if len(set(self.ids)) != len(self.ids):
            self.faults.append("two elements have one id")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        told = dict(attrs)
        if tag in ("script", "link", "img", "iframe") or "src" in told:
            self.faults.append(f"{tag}: something from outside")
        self.ids += [told["id"]] if told.get("id") and tag == "section" else []
        self.links += [told["href"] or ""] if "href" in told else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> out of order")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def reported(path: Path, *arguments: str) -> tuple[int, str, Page]:
    status = run(["run", *arguments, "-q", "--report", str(path)])
    page = path.read_text()
    return status, page, Page(page)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "nested.html"
    tests = "tests=ept-map-on-violation,ept-note-page"
    arguments = ["lhv-amd64", "--memory", "32M", "--cpus", "2", "--cmdline", tests]
    assert reported(path, *arguments, "--sanitize")[0] == 0
    return path


def test_the_page_is_whole_and_needs_nothing_else(nested: Path) -> None:
    page = Page(nested.read_text())
    assert page.faults == []
    names = "state timeline exits places addresses tables sanitizer console again"
    assert [one for one in page.ids if one != "why"] == names.split()
    assert not re.search(r'(?:src|href)="(?!#)', nested.read_text())


def test_the_check_of_pages_catches_what_is_wrong() -> None:
    for wrong in (
        "<p><b></p></b>",
        "<div>",
        '<a href="#none">x</a>',
        '<img src="http://elsewhere/x.png">',
        '<section id="a"></section><section id="a"></section>',
    ):
        assert Page(wrong).faults


def test_what_the_page_tells(nested: Path) -> None:
    text = "".join(Page(nested.read_text()).text)
    for told in (
        "the guest ended the run with 0 (success)",
        "L2 to L0: EPT violation",
        "EPT12, root ",
        "EPT02, root ",
        "L2-physical to L1-physical",
        "ok 1 - ept-note-page cpu0",
        "turducken run lhv-amd64 --memory 32M --cpus 2 --cmdline",
    ):
        assert told in text


def test_a_failed_run_says_why_first(tmp_path: Path) -> None:
    image = tmp_path / "image<b>&"
    image.write_bytes(tiny_file(say("<script>alert(1)</script>\x1b[2J\n") + UNDEFINED))
    status, text, page = reported(tmp_path / "page.html", str(image), "--mode", "bare")
    assert status == 1
    assert page.faults == []
    assert "triple fault" in "".join(page.text)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;^[[2J" in text


def test_a_bare_run_shows_its_own_table(tmp_path: Path) -> None:
    arguments = ["lhv-amd64", "--mode", "bare", "--cmdline", "tests=ept-map-on-violation"]
    status, _, page = reported(tmp_path / "page.html", *arguments)
    assert (status, page.faults) == (0, [])
    text = "".join(page.text)
    assert "guest-physical to physical" in text
    assert "the last EPT violation that L1 got on cpu0" in text


@pytest.mark.parametrize("option", ["--report", "--trace"])
def test_an_interrupted_run_has_its_files(option: str, tmp_path: Path) -> None:
    path = tmp_path / ("page.html" if option == "--report" else "trace.json")
    assert run(["run", "lhv-amd64", "-q", "--timeout", "0.2", option, str(path)]) == 3
    text = path.read_text()
    assert Page(text).faults == [] if option == "--report" else json.loads(text)


def test_time_is_kept_while_parts_become_longer() -> None:
    bins = Bins(1)
    way = (1, "L0", "CPUID")
    for number in range(5000):
        bins.add_time(0, number % 3, number * 1000, (number + 1) * 1000)
        bins.add_exit(number * 1000, way)
    assert len(bins.times[0]) <= MOST
    assert sum(sum(part) for part in bins.times[0]) == 5_000_000
    assert sum(part[way] for part in bins.exits) == 5000
    assert all(sum(part) <= bins.width for part in bins.times[0])


# In a browser


PROBE = """<script>
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const style = getComputedStyle(document.body);
document.querySelectorAll("nav a").forEach(one => one.click());
const hidden = [...document.querySelectorAll("section, h2, svg, td")].filter(one =>
  !one.closest("details") && !one.getClientRects().length).length;
const low = [...document.querySelectorAll("nav a")].every(one =>
  document.querySelector(one.getAttribute("href")));
const shown = document.createElement("pre");
shown.id = "probe";
shown.textContent = JSON.stringify({wide, hidden, links: low, at: location.hash,
  back: style.backgroundColor, text: style.color});
document.body.append(shown);
</script>"""


def shown(path: Path, *, width: int, is_dark: bool, folder: Path) -> dict[str, object]:
    """Let Chromium show a page, and return what a script in it sees."""
    probed = folder / "probed.html"
    probed.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    assert CHROMIUM is not None
    # A headless window is never narrower than 500 pixels: the page is shown in a frame.
    outer = folder / "outer.html"
    outer.write_text(
        f'<body style="margin:0"><iframe width="{width}" height="800" src="probed.html"></iframe>'
        "<script>onload = () => document.body.append("
        "frames[0].document.getElementById('probe').cloneNode(true))</script></body>"
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if is_dark else 1}",
            "--window-size=1400,900",
            "--dump-dom",
            outer.as_uri(),
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stdout[-500:]
    seen: dict[str, object] = json.loads(found[1])
    return seen


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
@pytest.mark.parametrize(
    ("width", "is_dark", "back"),
    [(PHONE, False, "rgb(255, 255, 255)"), (DESK, True, "rgb(20, 23, 27)")],
)
def test_a_browser_shows_it(
    width: int, is_dark: bool, back: str, nested: Path, tmp_path: Path
) -> None:
    seen = shown(nested, width=width, is_dark=is_dark, folder=tmp_path)
    assert seen["wide"] == 0, "the page is wider than the window"
    assert (seen["hidden"], seen["links"], seen["at"]) == (0, True, "#again")
    assert seen["back"] == back
    assert seen["text"] != back
