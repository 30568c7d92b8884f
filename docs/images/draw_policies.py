"""Draw docs/images/policies.svg: what each shadow policy costs on three workloads.

    turducken bench policies --json policies.json
    python docs/images/draw_policies.py policies.json

Without an argument it measures first. Exits and memory are the same on every host; times are one
host's, so they are drawn as multiples of the bare run's.
"""

import json
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).with_name("policies.svg")
POLICIES = ("lazy", "cached", "eager", "writeprotect")
COLOURS = ("#b8543c", "#3c6db8", "#7a9a3a", "#8a5aa5")
WORKLOADS = {
    "static": "static tables",
    "remapping": "steady remapping",
    "roots": "many roots",
}
NOTE = re.compile(r"([\d.]+) exits/round, (\d+) KiB")
WIDTH, LEFT, PANEL, GAP, BAR = 930, 150, 230, 24, 16
TOP, BLOCK = 92, len(POLICIES) * (BAR + 4) + 34


class Figures(NamedTuple):
    """One policy on one workload."""

    exits: float
    time: float
    memory: float


MEASURES = ("VM exits for each round", "time, as a multiple of bare", "KiB of EPT02 at most")


def read(path: Path) -> dict[tuple[str, str], Figures]:
    """Return the figures by workload and policy from what `turducken bench` writes."""
    found = {}
    for one in json.loads(path.read_text())["measurements"]:
        workload = one["group"].removeprefix("policies: ")
        if workload in WORKLOADS and one["name"] in POLICIES:
            noted = NOTE.match(one["note"])
            assert noted is not None
            figures = Figures(float(noted[1]), one["ratio"], float(noted[2]))
            found[workload, one["name"]] = figures
    return found


def measure() -> dict[tuple[str, str], Figures]:
    """Run the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policies.json"
        subprocess.run(["turducken", "bench", "policies", "--json", str(path)], check=True)
        return read(path)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bars(figures: dict[tuple[str, str], Figures], measure: int, x: float, y: float) -> list[str]:
    """Return one panel: a bar for each policy, as long as the longest of its row allows."""
    parts = []
    for row, workload in enumerate(WORKLOADS):
        top = y + row * BLOCK
        longest = max(figures[workload, one][measure] for one in POLICIES) or 1
        for number, policy in enumerate(POLICIES):
            value = figures[workload, policy][measure]
            length = value / longest * (PANEL - 60)
            at = top + number * (BAR + 4)
            parts.append(
                f'<rect x="{x:g}" y="{at:g}" width="{max(length, 1):.1f}" height="{BAR}"'
                f' fill="{COLOURS[number]}"/>'
            )
            parts.append(
                text(
                    x + length + 6,
                    at + 12.5,
                    f"{value:.3g}" if value < 1000 else f"{value:.0f}",
                    "value",
                )
            )
    return parts


def draw(figures: dict[tuple[str, str], Figures]) -> str:
    """Return the picture."""
    height = TOP + len(WORKLOADS) * BLOCK
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}">',
        "<style>text { font-family: system-ui, 'DejaVu Sans', sans-serif; font-size: 12px;"
        " fill: #222; } .title { font-size: 16px; font-weight: bold; } .head { font-weight: bold; }"
        " .value { font-size: 11px; fill: #555; }</style>",
        '<rect width="100%" height="100%" fill="white"/>',
        text(16, 26, "EPT02: what each shadow policy costs", "title"),
    ]
    for number, policy in enumerate(POLICIES):
        x = LEFT + number * 130
        parts.append(f'<rect x="{x}" y="40" width="12" height="12" fill="{COLOURS[number]}"/>')
        parts.append(text(x + 18, 51, policy))
    for number, name in enumerate(MEASURES):
        x = LEFT + number * (PANEL + GAP)
        parts.append(text(x, TOP - 14, name, "head"))
        parts += bars(figures, number, x, TOP)
    for row, name in enumerate(WORKLOADS.values()):
        parts.append(text(LEFT - 12, TOP + row * BLOCK + 44, name, "head", "end"))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Measure, or take the measurement that is given, and draw."""
    figures = read(Path(sys.argv[1])) if len(sys.argv) > 1 else measure()
    TARGET.write_text(draw(figures))


if __name__ == "__main__":
    main()
