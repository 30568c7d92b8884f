"""What the library that reads command lines complains of, in the words of all other complaints."""

import re

_OPTION = r"Invalid value for '(?P<option>[^']+)': '(?P<value>.*)' is not "
_PATTERNS = (
    (_OPTION + r"a valid int(?:eger)?( range)?\.?", "{option} {value}: not a whole number"),
    (_OPTION + r"a valid float( range)?\.?", "{option} {value}: not a number"),
    (_OPTION + r"a valid bool(?:ean)?\.?", "{option} {value}: neither true nor false"),
    (_OPTION + r"one of (?P<known>.*?)\.?", "{option} {value}: one of {known}"),
    (
        r"Invalid value for '(?P<option>[^']+)': (?P<value>\S+) is not in the range "
        r"(?P<range>.*?)\.?",
        "{option} {value}: not in the range {range}",
    ),
    (r"Option '(?P<option>[^']+)' requires an argument\.?", "{option}: a value is needed"),
    (r"Missing (?:argument|option|parameter) '(?P<option>[^']+)'\.?", "{option}: missing"),
    (r"No such command '(?P<value>.*?)'\.?(?P<rest>.*)", "{value}: no such command{rest}"),
    (r"No such option: (?P<option>\S+)(?P<rest>.*)", "{option}: no such option{rest}"),
    (r"Got unexpected extra argument(?:s|\(s\))? \((?P<value>.*)\)", "{value}: unexpected"),
)
"""Patterns of messages, and what is said instead."""


def in_our_words(message: str) -> str:
    """Return a message as ``--option value: what is wrong``; unknown ones as they are."""
    for pattern, words in _PATTERNS:
        found = re.fullmatch(pattern, message, re.DOTALL)
        if found is not None:
            told = {name: text.replace("'", "") for name, text in found.groupdict("").items()}
            return words.format(**told)
    return message
