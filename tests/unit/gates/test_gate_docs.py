"""docs/ on gates is true: the example of a custom gate is admissible, and the table has the program's taus."""

import re
from pathlib import Path

import pytest

from gates import check_admissible
from gates.calibration import matched_tau
from gates.custom import load_gate
from gates.power import power_shape
from gates.shapes import SHAPES

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_example_of_a_custom_gate_is_admissible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "custom_gates.md").read_text(), flags=re.DOTALL)
    (tmp_path / "documented_gates.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    report = check_admissible(load_gate("documented_gates:Tanh", {"tau": 5.0}))
    assert report.admissible, report.violations


def test_the_table_of_matched_taus() -> None:
    rows = re.findall(r"^\| (\w+)[^|]*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (DOCS / "gates.md").read_text(), re.M)
    assert [name for name, *_ in rows] == [*SHAPES, "power"]
    for name, half_width, tau_pos, tau_neg in rows:
        shape = power_shape(2.0) if name == "power" else SHAPES[name]
        assert float(half_width) == pytest.approx(shape.half_width, abs=1e-6)
        for told, tau in ((tau_pos, 10.0), (tau_neg, 12.0)):
            assert float(told) == pytest.approx(matched_tau(shape, like=SHAPES["softsign"], tau=tau), rel=1e-5)


def test_pictures_of_the_pages_exist() -> None:
    for page in DOCS.glob("*.md"):
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / picture).is_file(), f"{page.name}: {picture}"
