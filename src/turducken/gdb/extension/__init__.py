"""The extension for a stock gdb: `pt.py` in this folder is sourced by gdb, never imported here."""

from pathlib import Path

PATH = Path(__file__).with_name("pt.py")
"""The file to ``source`` in gdb."""
