"""The exit statuses of commands, as their help tells them."""

from collections.abc import Mapping

_OF_ALL = {
    2: "bad usage, or input that cannot be used",
    70: "a bug of turducken's",
    74: "output could not be written",
    130: "interrupted (SIGINT; 143: SIGTERM, 129: SIGHUP)",
}


def exit_statuses(own: Mapping[int, str] | None = None) -> str:
    """Return a paragraph: what 0 and the command's ``own`` statuses mean, and those of all."""
    meanings = {0: "success", **_OF_ALL, **(own or {})}
    lines = (f"   {status:>3}  {meaning}" for status, meaning in sorted(meanings.items()))
    return " Exit status\n\n" + "\n".join(lines) + "\n"
