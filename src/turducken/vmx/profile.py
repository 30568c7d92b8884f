"""Named processor profiles: TOML files that say what a modelled processor has.

A file's tables and keys are the attributes of the records of `turducken.vmx.profile_records`; the
tables under ``[vmx.controls]`` have one key for each control, by its name in lower case. A file may
start from another profile with ``base = "NAME"`` and change single keys. What a file says is
checked when it is read: a `ProfileError` names the file and the key.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from turducken.vmx.controls import CONTROL_SETS, ControlSet
from turducken.vmx.profile_records import (
    Choices,
    Cpu,
    Ept,
    Features,
    Misc,
    Profile,
    ProfileError,
    Setting,
    Vpid,
)
from turducken.vmx.profile_rules import check_consistency, check_modelled

__all__ = [
    "Profile",
    "ProfileError",
    "Setting",
    "list_profiles",
    "load_profile",
    "read_profile",
]

_SHIPPED = Path(__file__).parent / "profiles"
_MAX_DEPTH = 8

_RECORDS: dict[str, tuple[str, type]] = {
    "cpu": ("cpu", Cpu),
    "features": ("features", Features),
    "vmx.misc": ("misc", Misc),
    "vmx.ept": ("ept", Ept),
    "vmx.vpid": ("vpid", Vpid),
    "vmx.choices": ("choices", Choices),
}
"""Tables of the file, the attribute of `Profile` each fills, and its record."""

_RANGES: dict[str, tuple[int, int]] = {
    "cpu.family": (0, 15),
    "cpu.model": (0, 255),
    "cpu.stepping": (0, 15),
    "cpu.microcode": (0, 0xFFFF_FFFF),
    "cpu.physical_address_bits": (32, 52),
    "cpu.linear_address_bits": (48, 57),
    "cpu.performance_counters": (0, 8),
    "cpu.fixed_counters": (0, 4),
    "cpu.apic_timer_hertz": (1_000_000, 1_000_000_000),
    "vmx.misc.revision": (0, 0x7FFF_FFFF),
    "vmx.misc.preemption_timer_shift": (0, 31),
    "vmx.misc.cr3_targets": (0, 256),
    "vmx.misc.msr_list_limit": (512, 4096),
}


def list_profiles() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(one.stem for one in _SHIPPED.glob("*.toml"))


def load_profile(name_or_path: str | Path = "default") -> Profile:
    """Return a shipped profile by name, or one of the user's by path.

    Raises `ProfileError` where there is no such profile, where its file cannot be used, and where
    it offers what the machine does not model.
    """
    profile = read_profile(name_or_path)
    check_modelled(profile)
    return profile


def read_profile(name_or_path: str | Path) -> Profile:
    """Return a profile as `load_profile` does, whether the machine models it or not."""
    path = _find(str(name_or_path))
    raw = _read_with_bases(path, 0)
    profile = _Reader(str(path)).profile(path.stem, raw)
    check_consistency(profile)
    return profile


def _find(name: str) -> Path:
    shipped = _SHIPPED / f"{name}.toml"
    if name in list_profiles():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(list_profiles())
    raise ProfileError(f"{name}: no such profile (neither a file nor one of {known})")


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ProfileError(f"{path}: cannot be read: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: not a TOML file: {error}") from error


def _read_with_bases(path: Path, depth: int) -> dict[str, Any]:
    """Return the file's tables laid over those of the profile it is based on."""
    raw = _parse(path)
    base = raw.pop("base", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ProfileError(f"{path}: base: expected the name of a profile")
    if depth >= _MAX_DEPTH:
        raise ProfileError(f"{path}: base: profiles are based on one another in a circle")
    beside = path.parent / base
    below = _read_with_bases(beside if beside.is_file() else _find_base(path, base), depth + 1)
    return _overlay(below, raw)


def _find_base(path: Path, base: str) -> Path:
    try:
        return _find(base)
    except ProfileError as error:
        raise ProfileError(f"{path}: base: {error}") from error


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _overlay(old, value) if both else value  # type: ignore[arg-type]
    return result


class _Reader:
    """Turns the tables of one file into records, naming the key where something is wrong."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, key: str, what: str) -> ProfileError:
        return ProfileError(f"{self.source}: {key}: {what}")

    def profile(self, name: str, raw: dict[str, Any]) -> Profile:
        tables = {"cpu", "features", "vmx", "description"}
        self._refuse_unknown("", raw, tables)
        vmx = self._table("vmx", raw.get("vmx", {}))
        self._refuse_unknown("vmx.", vmx, {"misc", "ept", "vpid", "choices", "controls"})
        flat = {**raw, **{f"vmx.{key}": value for key, value in vmx.items()}}
        records = {
            attribute: self._record(table, flat.get(table, {}), record)
            for table, (attribute, record) in _RECORDS.items()
        }
        description = raw.get("description", "")
        if not isinstance(description, str):
            raise self.fail("description", "expected text")
        controls = self._controls(vmx.get("controls", {}))
        return Profile(name, self.source, description, controls=controls, **records)

    def _refuse_unknown(self, prefix: str, table: Mapping[str, Any], known: set[str]) -> None:
        for key in table:
            if key not in known:
                raise self.fail(prefix + key, "unknown key")

    def _table(self, key: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(key, "expected a table")
        return value

    def _record(self, table: str, raw: object, record: type) -> Any:
        values = self._table(table, raw)
        assert is_dataclass(record)
        kinds = {one.name: type(one.default) for one in fields(record)}
        self._refuse_unknown(f"{table}.", values, set(kinds))
        for key, value in values.items():
            self._check_value(f"{table}.{key}", value, kinds[key])
        return record(**values)

    def _check_value(self, key: str, value: object, kind: type) -> None:
        names = {bool: "true or false", int: "a number", str: "text"}
        if type(value) is not kind:
            raise self.fail(key, f"expected {names[kind]}, not {value!r}")
        if key in _RANGES and isinstance(value, int):
            low, high = _RANGES[key]
            if not low <= value <= high:
                raise self.fail(key, f"{value} is not between {low} and {high}")

    def _controls(self, raw: object) -> dict[str, dict[str, Setting]]:
        words = self._table("vmx.controls", raw)
        self._refuse_unknown("vmx.controls.", words, set(CONTROL_SETS))
        return {
            key: self._word(f"vmx.controls.{key}", words.get(key, {}), one)
            for key, one in CONTROL_SETS.items()
        }

    def _word(self, table: str, raw: object, word: ControlSet) -> dict[str, Setting]:
        values = self._table(table, raw)
        self._refuse_unknown(f"{table}.", values, {name.lower() for name in word.masks})
        return {
            name: self._setting(
                f"{table}.{name.lower()}",
                values.get(name.lower(), "always" if mask & word.default1 else False),
            )
            for name, mask in word.masks.items()
        }

    def _setting(self, key: str, value: object) -> Setting:
        if isinstance(value, bool):
            return Setting.OPTIONAL if value else Setting.HIDDEN
        if isinstance(value, str) and value in {one.value for one in Setting}:
            return Setting(value)
        raise self.fail(key, f'expected true, false or "always", not {value!r}')
