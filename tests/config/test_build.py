"""What the compiler of the request path needs; see "Compiled" in CONTRIBUTING.md."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
COMPILED = [
    path
    for folder in HOOK["include"]
    for path in sorted(ROOT.glob(f"{folder.strip('/')}/*.py"))
    if not {path.name, f"/{path.relative_to(ROOT)}"} & set(HOOK["exclude"])
]


def bound_twice(source):
    """Return the names that two `except` clauses of one function bind to different classes."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            classes = {}
            for clause in ast.walk(function):
                if isinstance(clause, ast.ExceptHandler) and clause.name and clause.type:
                    classes.setdefault(clause.name, set()).add(ast.unparse(clause.type))
            found |= {f"{function.name}: {name}" for name, several in classes.items() if len(several) > 1}
    return found


def test_there_is_something_to_compile():
    assert len(COMPILED) > 70


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_binds_one_name_to_exceptions_of_two_classes(path):
    assert not bound_twice(path.read_text())


def test_a_name_bound_twice_is_found():
    clauses = "    except OSError as exc:\n        pass\n    except ValueError as exc:\n        pass\n"
    assert bound_twice(f"def f():\n    try:\n        pass\n{clauses}") == {"f: exc"}
    assert not bound_twice(f"def f():\n    try:\n        pass\n{clauses.replace('ValueError', 'OSError')}")


def test_what_is_left_out_exists():
    for path in HOOK["exclude"]:
        assert path == "__init__.py" or (ROOT / path.strip("/")).is_file()


def test_the_compiler_is_the_type_checker():
    dev = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    assert {one for one in HOOK["dependencies"] if one.startswith("mypy==")} <= set(dev)
