"""The Grafana dashboard is fresh, asks only for metrics that exist, and leaves none unseen."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from gateway.observe.series import Shape
from gateway.observe.table import TABLE

CONFIG = Path(__file__).parents[2] / "config"

UNUSED: frozenset[str] = frozenset()
"""Metrics that deliberately stand on no panel."""

FROM_THE_LIBRARY = {
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_resident_memory_bytes",
}


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("grafana_generate", CONFIG / "grafana" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def board():
    return json.loads((CONFIG / "grafana" / "gateway-overview.json").read_text())


def exposed_names():
    names = {}
    for name, spec in TABLE.items():
        suffixes = ("_bucket", "_sum", "_count") if spec.shape is Shape.HISTOGRAM else ("",)
        names.update({name + suffix: name for suffix in suffixes})
    return names


def named_in(expr):
    return set(re.findall(r"\b(?:gateway|process)_[a-z_]+", expr))


def test_the_file_is_what_the_generator_writes(generator):
    assert generator.OUTPUT.read_text() == generator.rendered(), "run config/grafana/generate.py"


def test_check_tells_a_stale_file(generator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "OUTPUT", tmp_path / "gateway-overview.json")
    assert generator.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0


def test_every_metric_on_a_panel_exists(generator, board):
    known = set(exposed_names()) | FROM_THE_LIBRARY
    for title, expr in generator.queries(board):
        assert named_in(expr), f"{title} asks for nothing of ours"
        assert named_in(expr) <= known, f"{title}: {named_in(expr) - known}"


def test_every_metric_of_the_table_is_on_a_panel(generator, board):
    base = exposed_names()
    used = {base[name] for _, expr in generator.queries(board) for name in named_in(expr) if name in base}
    assert used | UNUSED == set(TABLE)
    assert not used & UNUSED


def test_selectors_and_groupings_use_labels_that_the_metric_has(generator, board):
    base = exposed_names()
    for title, expr in generator.queries(board):
        for name, selector in re.findall(r"(gateway_[a-z_]+)\{([^}]*)\}", expr):
            labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))
            assert labels <= set(TABLE[base[name]].labels), f"{title}: {name}{{{selector}}}"
        for grouping, name in re.findall(r"by \(([^)]*)\) \((?:rate\(|increase\()?(gateway_[a-z_]+)", expr):
            labels = {label.strip() for label in grouping.split(",")} - {"le"}
            assert labels <= set(TABLE[base[name]].labels), f"{title}: by ({grouping}) of {name}"


def test_legends_use_labels_that_the_answer_has(board):
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            groupings = re.findall(r"by \(([^)]*)\)", target["expr"])
            if groupings:
                assert wanted <= {label.strip() for label in groupings[0].split(",")}, panel["title"]


def test_counters_are_read_as_rates_and_histograms_as_quantiles(generator, board):
    for title, expr in generator.queries(board):
        for name in named_in(expr):
            if name.endswith("_total"):
                assert re.search(rf"(rate|increase)\({name}", expr), title
            if name.endswith("_bucket"):
                assert expr.startswith("histogram_quantile("), title


def test_no_grafana_variable_is_left_in_a_query(generator, board):
    assert not [title for title, expr in generator.queries(board) if "$" in expr]


def test_every_panel_explains_itself_and_has_its_own_place(board):
    taken = set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in board["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]


def test_the_dashboard_can_be_linked_to_and_filtered(board):
    assert board["uid"] == "gateway-overview"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "route", "provider"]
    assert {panel["datasource"]["uid"] for panel in board["panels"] if panel["type"] != "row"} == {"${datasource}"}
