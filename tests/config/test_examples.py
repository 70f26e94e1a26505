"""What users copy: every example loads, the reference leaves nothing out, the published JSON Schema is the current one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.config import jsonschema
from gateway.config.load import load
from gateway.config.planned import NOT_BUILT
from gateway.config.schema import REQUIRED, Configuration
from gateway.config.section import Section, sections

CONFIG = Path(__file__).parents[2] / "config"
FIRST_LINE = "# yaml-language-server: $schema=./gateway.schema.json"
EXAMPLES = [path for path in sorted(CONFIG.rglob("*.yaml")) if path.read_text().startswith(FIRST_LINE)]
ENVIRON = {
    "OPENAI_API_KEY": "sk-1",
    "AZURE_OPENAI_API_KEY": "az-1",
    "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com",
    "ANTHROPIC_API_KEY": "an-1",
}


def test_the_three_examples_are_there():
    assert {"minimal.yaml", "multi-provider.yaml", "reference.yaml"} <= {path.name for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads(path):
    assert load(path, ENVIRON).routes


def known_sections():
    full = {
        "providers": {"p": {"quota": {"groups": [{}]}, "errors": [{}]}},
        "clients": [{"limits": {"requests": "8/s"}}],
        "routes": [{"targets": ["p"]}],
        "policies": {"p": {"hedge": {}}},
    }
    return {type(section) for _, section in sections(Configuration.model_validate(full))}


def test_the_reference_shows_every_key():
    text = (CONFIG / "reference.yaml").read_text()
    missing = [
        f"{section.__name__}.{key}"
        for section in known_sections()
        for key in section.model_fields
        if not re.search(rf"(?<![\w-]){key}(: |:\n|,)", text)
    ]
    assert missing == []


def test_the_references_default_policy_and_provider_defaults_are_the_defaults():
    snapshot = load(CONFIG / "reference.yaml", ENVIRON)
    minimal = load(CONFIG / "minimal.yaml", ENVIRON)
    assert snapshot.server == minimal.server
    assert snapshot.routes[-1].policy == minimal.routes[0].policy
    ours, theirs = snapshot.providers["openai"], minimal.providers["openai"]
    assert (ours.plan, ours.connect_s, ours.pool) == (theirs.plan, theirs.connect_s, theirs.pool)


def test_the_published_schema_is_the_current_one():
    assert (CONFIG / "gateway.schema.json").read_text() == jsonschema.render()


def test_the_schema_is_written_by_its_command(tmp_path):
    target = tmp_path / "s.json"
    subprocess.run([sys.executable, "-m", "gateway.config.jsonschema", str(target)], check=True, cwd=CONFIG.parent)
    assert json.loads(target.read_text()) == jsonschema.generate()


def _objects(schema):
    for name, described in {"Configuration": schema, **schema["$defs"]}.items():
        yield name, next((choice for choice in described.get("anyOf", ()) if "properties" in choice), described)


def test_every_key_in_the_schema_is_described_closed_and_without_null():
    for name, described in _objects(jsonschema.generate()):
        assert described["additionalProperties"] is False, name
        assert described["description"], name
        for key, value in described["properties"].items():
            assert value.get("description") or value.keys() == {"$ref"}, f"{name}.{key}"  # then the section's own
            assert "null" not in json.dumps(value), f"{name}.{key}"


def test_the_schema_marks_what_is_required_and_what_is_planned():
    objects = dict(_objects(jsonschema.generate()))
    for section, keys in REQUIRED.items():
        assert objects[section.__name__]["required"] == list(keys)
    for section, key in NOT_BUILT:
        assert objects[section.__name__]["properties"][key]["description"].startswith("Planned, not built yet: ")


def _fits(value, described, schema):
    """A small judge of the keywords that the schema uses, so that examples are seen with an editor's eyes."""
    if "$ref" in described:
        return _fits(value, schema["$defs"][described["$ref"].rpartition("/")[2]], schema)
    if "anyOf" in described:
        return any(_fits(value, choice, schema) for choice in described["anyOf"])
    if "enum" in described:
        return value in described["enum"]
    if "const" in described:
        return value is described["const"]
    kind = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}[
        described["type"]
    ]
    if not isinstance(value, kind) or (isinstance(value, bool) and described["type"] in {"integer", "number"}):
        return False
    if isinstance(value, dict):
        properties, more = described.get("properties", {}), described.get("additionalProperties", False)
        return set(described.get("required", ())) <= value.keys() and all(
            _fits(item, properties.get(key, more), schema) if key in properties or more else False for key, item in value.items()
        )
    if isinstance(value, list):
        return len(value) >= described.get("minItems", 0) and all(_fits(item, described["items"], schema) for item in value)
    if isinstance(value, str):
        return re.search(described.get("pattern", ""), value) is not None and len(value) >= described.get("minLength", 0)
    return described.get("minimum", value) <= value <= described.get("maximum", value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_editor_finds_nothing_to_complain_about_in_an_example(path):
    schema = jsonschema.generate()
    data = yaml.safe_load(path.read_text())
    assert [key for key, value in data.items() if not _fits(value, schema["properties"][key], schema)] == []
    assert not _fits({"connect": "5"}, schema["$defs"]["Provider"], schema)


@pytest.mark.parametrize(
    ("section", "value", "fits"),
    [
        ("PolicyTimeouts", {"first_token": "60s", "answer": {"learned": "p99 x 3", "floor": "5s", "initially": "1m"}}, True),
        ("PolicyTimeouts", {"first_token": {"learned": "p99\u00d72.5"}}, True),
        ("PolicyTimeouts", {"first_token": {"learned": "${L}"}}, True),
        ("PolicyTimeouts", {"first_token": 60}, False),
        ("PolicyTimeouts", {"first_token": {"learned": "p49 x 3"}}, False),
        ("PolicyTimeouts", {"stall": {"learned": "p99 x 3"}}, False),
        ("Policy", {"hedge": False}, True),
        ("Policy", {"hedge": {"after": "800ms", "max": 3, "non_stream": True}}, True),
        ("Policy", {"hedge": {"max": 4}}, False),
        ("Policy", {"hedge": {"after": "p9"}}, False),
        ("Policy", {"hedge": True}, False),
        ("Stream", {"hold": "all", "resume": True, "keepalive": False, "early_keepalive": "45s"}, True),
        ("Stream", {"hold": "1m30s", "keepalive": "off"}, True),
        ("Stream", {"hold": "some 5s"}, False),
        ("Stream", {"keepalive": True}, False),
        ("Target", {"provider": "p", "hedge": True, "prefill": "prefix_echoed"}, True),
        ("Target", {"provider": "p", "prefill": "yes"}, False),
        ("Provider", {"stream_usage": True}, True),
        ("Quota", {"requests": "600/min", "tokens": {"rate": "2M/min", "burst": 5}, "concurrent": 5}, True),
        (
            "Quota",
            {"requests": ["600/min", {"rate": "12/s"}], "groups": [{"name": "a", "models": ["*"], "requests": ["8/s"]}]},
            True,
        ),
        ("Quota", {"requests": []}, False),
        ("Quota", {"requests": [600]}, False),
        ("Quota", {"requests": {"burst": 5}}, False),
        ("Quota", {"groups": [{"models": ["*"]}]}, False),
        ("Quota", {"groups": [{"name": "a", "models": []}]}, False),
        ("Client", {"name": "a", "key": "k", "priority": "batch", "weight": 0.5, "limits": {"tokens": ["8/s"]}}, True),
        ("Client", {"name": "a", "key": "k", "weight": "${W}"}, True),
        ("Client", {"name": "a", "key": "k", "weight": 0}, False),
        ("Client", {"name": "a", "key": "k", "priority": "normal"}, False),
        ("Client", {"name": "a", "key": "k", "limits": {"input_tokens": "8/s"}}, False),
    ],
)
def test_an_editor_knows_the_shapes_of_limits_quotas_hedges_and_streams(section, value, fits):
    schema = jsonschema.generate()
    assert _fits(value, schema["$defs"][section], schema) is fits


def test_the_hot_paths_snapshot_needs_neither_yaml_nor_pydantic():
    code = "import sys, gateway.config.snapshot; sys.exit(any(name in sys.modules for name in ('yaml', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=CONFIG.parent).returncode == 0


def test_no_section_is_forgotten_in_these_tests():
    assert known_sections() == set(Section.__subclasses__())
