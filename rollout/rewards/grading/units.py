"""Units of answers, with money, percent and degrees.

In: text in the dialect of spelling.py. Out: the text without its unit, and one name of the unit, or an empty name. A
unit is a word of the list here, or any text in \\text{...} behind a number. Knows no conversion: 1 m is not 100 cm.
"""

import re

# Units of school mathematics, the name first. A word that is not here is text, unless it is in \text{...}.
_NAMES = {
    "%": "% percent percentage",
    "dollar": "$ dollar dollars usd",
    "cent": "cent cents ¢",
    "pound_money": "£",
    "euro": "€ euro euros",
    "degree": "degree degrees deg",
    "radian": "radian radians rad",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "inch": "inch inches",
    "foot": "foot feet ft",
    "yard": "yard yards yd",
    "mile": "mile miles",
    "unit": "unit units",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "pound": "pound pounds lb lbs",
    "ounce": "ounce ounces oz",
    "ton": "ton tons",
    "second": "second seconds sec secs s",
    "minute": "minute minutes min mins",
    "hour": "hour hours hr hrs h",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "liter": "liter liters litre litres",
    "ml": "ml milliliter milliliters",
    "gallon": "gallon gallons",
    "mph": "mph",
    "point": "point points",
    "time": "time times",
    "people": "people person persons",
    "way": "way ways",
}
_CANONICAL = {word: name for name, words in _NAMES.items() for word in words.split()}
_SHORT = {"m", "g", "s", "h", "min", "deg", "rad", "time", "times"}  # more likely letters of algebra in plain text
_POWERS = {"square": "^2", "squared": "^2", "sq": "^2", "cubic": "^3", "cubed": "^3"}
# Words that change a number or join two numbers, and are never a unit.
_NO_UNITS = frozenset(
    "and or to not of if is for all no none hundred thousand million billion trillion dozen half base mod pi i".split()
)

_LEADING_MONEY = re.compile(r"(-?)\\text\{([$£€])\}|(-?)([£€])")
_IN_TEXT = re.compile(r"(?<=[0-9a-zA-Z}).%])\\text\{([^{}\\]*)\}(\^[23])?")
_WORDS = re.compile(r"(?<=[0-9}).]) ?([a-zA-Z¢€£]+(?: [a-zA-Z]+)?(?:/[a-zA-Z]+)?(?:\^[23])?)")


def split_unit(text: str) -> tuple[str, str]:
    """Splits a text into (text without its unit, name of the unit); (text, "") if it has none."""
    money = _LEADING_MONEY.match(text)
    if money:
        symbol = money[2] or money[4]
        return (money[1] or money[3] or "") + text[money.end() :], _CANONICAL.get(symbol, "pound_money")
    if text.endswith("%"):
        return text[:-1].rstrip(), "%"
    start = text.rfind(r"\text{")
    if start > 0:
        found = _IN_TEXT.fullmatch(text, start)
        name = _unit_name(f"{found[1]}{found[2] or ''}", known_only=False) if found else ""
        return (text[:start], name) if name else (text, "")
    if not text[:1].isalpha():
        for found in _WORDS.finditer(text):
            name = _unit_name(found[1], known_only=True) if found.end() == len(text) else ""
            if name:
                return text[: found.start()], name
    return text, ""


def _unit_name(words: str, *, known_only: bool) -> str:
    """The name of a unit; `square inches`, `inches^2`, `inch squared` have one name, and a text that is none has ""."""
    words, _, power = words.lower().strip(" .").partition("^")
    suffix = f"^{power}" if power else ""
    names: list[str] = []
    for word in re.split(r"[ /]+|(?<=[a-z])\.", words):
        if word in _POWERS:
            suffix = _POWERS[word]
        elif word in ("per", "each", ""):
            continue
        elif word in _NO_UNITS or (known_only and (word not in _CANONICAL or word in _SHORT)):
            return ""
        else:
            names.append(_CANONICAL.get(word, word))
    return "/".join(names) + suffix if names else ""
