"""The tables of faults that people read say what the gateway does: made anew, they are the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gateway.core.verdicts import FAULTS, Again, Fault, Parked, Scope

GENERATOR = Path(__file__).parents[2] / "config" / "faults" / "tables.py"


@pytest.fixture
def generator():
    spec = importlib.util.spec_from_file_location("faults_generate", GENERATOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_generator_writes(generator):
    assert generator.main(["--check"]) == 0, "run config/faults/tables.py"


def test_check_tells_a_stale_page_and_a_run_mends_it(generator, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "README.md"
    copy.write_text(generator.README.read_text().replace("`overloaded`", "`overladen`"))
    monkeypatch.setattr(generator, "README", copy)
    monkeypatch.setattr(generator, "REFERENCE", tmp_path / "faults.md")
    assert generator.main(["--check"]) == 1
    assert "README.md is stale" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    assert "`overloaded`" in copy.read_text()


def test_a_readme_without_its_marks_is_an_error(generator):
    with pytest.raises(ValueError, match="marks"):
        generator.readme("# a page\n")


def test_every_fault_and_every_word_of_the_tables_is_described(generator):
    assert set(generator.WHAT) == set(Fault) == set(FAULTS)
    assert set(generator.AGAIN) == set(Again)
    assert set(generator.SCOPE) == set(Scope)
    assert set(generator.PARKED) == set(Parked)
    assert set(generator.ELSEWHERE) == {fault for fault, rule in FAULTS.items() if not rule.elsewhere}
