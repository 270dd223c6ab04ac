"""Checks of parameters; the error is one line with the field, its value and what is allowed."""

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Real


def check_real(field: str, value: float, *, above: float, below: float = math.inf, closed: bool = False) -> None:
    """Raises ValueError unless value is a number in (above, below), or in (above, below] if closed."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and (above < value < below or (closed and value == below))):
        interval = f"a number in ({above:g}, {below:g}{']' if closed else ')'}"
        raise ValueError(
            f"{field}={value!r}: must be {f'a finite number > {above:g}' if below == math.inf else interval}"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message that names the most similar known name, or an empty text."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def listed(names: Sequence[str]) -> str:
    """The names as `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
