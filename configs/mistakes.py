"""Messages about mistakes in a configuration, one line a mistake.

In: a pydantic ValidationError of RunConfig, or a name that is not known. Out: lines with the field, the value given,
what is allowed and the nearest known key. Knows the schema, and nothing of how a tree is composed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.differences import typed
from configs.schema import RunConfig

NEAR_ENOUGH = 0.6  # similarity from which on a name is proposed; below it the proposals are mostly noise
OTHER_SECTION = 0.9  # factor on the similarity of a key in another section, whose last part is compared alone
LONGEST_VALUE = 60  # characters of a value that a message repeats
LONGEST_LIST = 8  # most settings of a section listed in full; of a longer list only those directly in the section
NAME_ERROR = "[key]"  # mark in pydantic's location for an error in the name itself
NAME_OF_SET = "<name>"  # placeholder in a key for the name that a person gives: task.train.<name>.path
CHOICE_WITHOUT_SECTION = "experiment"  # group that is named on the command line but is not part of a RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One mistake; its key is dotted, and empty where several fields do not fit each other."""

    key: str
    line: str


def mistakes_of(error: ValidationError, *, root: type[BaseModel] = RunConfig) -> list[Mistake]:
    """Every mistake that pydantic found in a tree of this root, in the order of the fields."""
    return [mistake for details in error.errors(include_url=False) for mistake in _mistakes_in(details, root)]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The most similar known name, or None if none is similar; dotted names also match by their last part."""
    filled = (_filled(candidate, name) for candidate in known)
    scored = [(_likeness(name, candidate), candidate) for candidate in filled if candidate != name]
    score, candidate = max(scored, default=(0.0, ""))
    return candidate if score >= NEAR_ENOUGH else None


def proposal(name: str, known: Iterable[str]) -> str:
    """The text `, did you mean <nearest>?`, or an empty text."""
    found = nearest(name, known)
    return f", did you mean {found}?" if found else ""


@cache
def known_keys() -> list[str]:
    """All dotted keys of the schema, with those of sections and of every variant of a section."""
    return [*dict.fromkeys(_keys(RunConfig, prefix="")), CHOICE_WITHOUT_SECTION]


def section_types(annotation: Any) -> list[type[BaseModel]]:
    """The section types of a field: several if the section has variants, none if the field holds a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in section_types(argument)]


def holds_named_sections(annotation: Any) -> bool:
    """Whether a field is a dict of sections whose names a person gives."""
    return bool(section_types(annotation)) and get_origin(annotation) is dict


def keys_inside(key: str, annotation: Any) -> str:
    """The prefix of the settings in a field's section: `gate.`, or `task.train.<name>.`."""
    return f"{key}.{NAME_OF_SET}." if holds_named_sections(annotation) else f"{key}."


def shown(value: object) -> str:
    """A value as it is typed on the command line, on one line, and shortened if it is long."""
    text = " ".join(typed(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _filled(candidate: str, name: str) -> str:
    """The candidate with <name> replaced by the name that a person gave, if the key is long enough to have one."""
    given = name.split(".")
    parts = candidate.split(".")
    if NAME_OF_SET not in parts or len(given) <= parts.index(NAME_OF_SET):
        return candidate
    return candidate.replace(NAME_OF_SET, given[parts.index(NAME_OF_SET)])


def _likeness(name: str, candidate: str) -> float:
    section, _, last = name.rpartition(".")
    candidate_section, _, candidate_last = candidate.rpartition(".")
    last_ratio = SequenceMatcher(None, last, candidate_last).ratio()
    if section == candidate_section:
        return last_ratio
    section_ratio = SequenceMatcher(None, section, candidate_section).ratio()
    return max(OTHER_SECTION * last_ratio, (section_ratio + last_ratio) / 2)


def _keys(section: type[BaseModel], *, prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        for member in section_types(field.annotation):
            for key in _keys(member, prefix=keys_inside(f"{prefix}{name}", field.annotation)):
                if not key.endswith(".name"):  # chosen with the group: gate=..., task=...
                    yield key


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """The place of an error in the tree."""

    key: str
    known: list[str]  # keys that the person may have meant
    only: str  # name of the variant that refuses the key, as in gate=clip; empty if there are no variants


def _place(location: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    """The place that pydantic's location names, without the tags of variants."""
    section: type[BaseModel] | None = root
    key, known, only = "", known_keys(), ""
    remaining = list(location)
    while remaining:
        item = remaining.pop(0)
        if isinstance(item, int):
            key += f"[{item}]"
            continue
        if item == NAME_ERROR:
            continue
        key = f"{key}.{item}" if key else item
        field = section.model_fields.get(item) if section else None
        members = section_types(field.annotation) if field else []
        section = members[0] if members else None
        if field and remaining and holds_named_sections(field.annotation):
            key = f"{key}.{remaining.pop(0)}"
            known = [_filled(known_key, key) for known_key in known]
        if len(members) > 1 and remaining:
            tag = str(remaining.pop(0))
            section = next(one for one in members if tag in get_args(one.model_fields["name"].annotation))
            known = [key for key in _keys(section, prefix=f"{item}.") if key != f"{item}.name"]
            only = f"{item}={tag}"
    return _Place(key=key, known=known, only=only)


def _mistakes_in(details: ErrorDetails, root: type[BaseModel]) -> Iterator[Mistake]:
    place = _place(details["loc"], root)
    inside = [key for key in place.known if key.startswith(f"{place.key}.")]
    match details["type"]:
        case "extra_forbidden":
            for key, value in _leaves(place.key, details["input"]):
                yield Mistake(key=key, line=f"{key}={shown(value)}: {_refusal(key, place=place)}")
        case "missing" | "union_tag_not_found":
            line = f"{place.key}: missing, and it has no default; give {place.key}=..."
            yield Mistake(key=place.key, line=line)
        case "union_tag_invalid":
            tag, allowed = shown(details["input"]["name"]), str(details["ctx"]["expected_tags"]).replace("'", "")
            line = f"{place.key}.name={tag}: must be one of {allowed}{proposal(tag, allowed.split(', '))}"
            yield Mistake(key=place.key, line=line)
        case "model_type" | "model_attributes_type" | "dict_type" if inside:
            line = f"{place.key}={shown(details['input'])}: is a section and takes no value; set {', '.join(inside)}"
            yield Mistake(key=place.key, line=line)
        case "value_error":
            for line in str(details["ctx"]["error"]).splitlines():
                yield Mistake(key=place.key, line=line)
        case _:
            rule = (
                re.sub(r"^\w+ should", "must", details["msg"]).removesuffix(" after validation, not 0").replace("'", "")
            )
            given = ", ".join(f"{key}={shown(value)}" for key, value in _leaves(place.key, details["input"]))
            yield Mistake(key=place.key, line=f"{given}: {rule}")


def _refusal(key: str, *, place: _Place) -> str:
    hint = proposal(key, place.known)
    if place.only and not hint:
        is_long = len(place.known) > LONGEST_LIST
        listed = [known for known in place.known if not is_long or known.count(".") == 1]
        return f"{place.only} has no such setting, only {', '.join(listed)}"
    return f"no such setting{hint or ', see --help'}"


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    """The keys and values below a key, one by one, as a person typed them."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value
