"""Diagnoses: why something failed, as records that every layer can make and every view can show."""

from turducken.diagnosis.collector import Diagnoses, Sighting
from turducken.diagnosis.records import (
    BrokenRule,
    Diagnosis,
    Key,
    Kind,
    Place,
    Reading,
    Report,
    decoded_text,
)
from turducken.diagnosis.text import as_dict, one_line, paragraph

__all__ = [
    "BrokenRule",
    "Diagnoses",
    "Diagnosis",
    "Key",
    "Kind",
    "Place",
    "Reading",
    "Report",
    "Sighting",
    "as_dict",
    "decoded_text",
    "one_line",
    "paragraph",
]
