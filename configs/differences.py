"""Settings in which two configurations differ.

In: two RunConfigs. Out: dotted names with both values. Knows no reason why settings should agree.
"""

from collections.abc import Iterator
from typing import Any

from configs.schema import RunConfig


def differences(before: RunConfig, now: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yields (name, value before, value now) for each setting that both have with different values.

    A setting that only one of them has is not named; the `name` of its section differs and is.
    """
    old, new = _settings(before), _settings(now)
    return ((name, old[name], new[name]) for name in old if name in new and old[name] != new[name])


def _settings(config: RunConfig) -> dict[str, Any]:
    """Every setting under its dotted name."""
    tree = config.model_dump(mode="json")
    sections = {name: value for name, value in tree.items() if isinstance(value, dict)}
    inside = {f"{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
    return {name: value for name, value in tree.items() if name not in sections} | inside


def typed(value: object) -> str:
    """A value as it is typed on the command line, at full length."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
