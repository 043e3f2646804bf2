"""Each line that the package logs says what follows and what to do, names its job and project, and has no secret."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "celery_realtime"

#: Those that somebody reads because something is wrong.
OF_TROUBLE = ("warning", "error", "critical", "exception", "suppressing")
METHODS = (*OF_TROUBLE, "debug", "info")
#: What loggers are called here.
LOGGER = re.compile(r"(?:^|\.)_?(?:log|logger|failures)$")

#: "the history is full, so events wait; they are sent when there is room"
CONSEQUENCE, NEXT_STEP = re.compile(r"\bso\b"), re.compile("; ")

#: Names of what a line is about, and what its record then has.
SUBJECTS = {"job_id": "job_id", "job": "job_id", "project_id": "project_id"}
SECRETS = re.compile(r"(?:^|_)(?:url|token|secret|secret_key|password|passwd|credentials|auth)$")


@dataclass(frozen=True)
class Line:
    """A call that logs.

    Args:
        place: Its file and line.
        call: The call.
        function: The function that it is in.
        module: The module that it is in.
    """

    place: str
    call: ast.Call
    function: ast.AST
    module: ast.Module

    @property
    def method(self) -> str:
        assert isinstance(self.call.func, ast.Attribute)
        return self.call.func.attr

    @property
    def texts(self) -> list[str]:
        """All literals that its message may consist of."""
        return [*_literals(self.call.args[0], self.function, self.module)]

    @property
    def extra(self) -> set[str]:
        """What it says of a job or a project beside its message."""
        given = {keyword.arg or "" for keyword in self.call.keywords}
        return given | ({"job_id", "project_id"} if "extra" in given else set())


def _literals(node: ast.AST, function: ast.AST, module: ast.Module) -> Iterator[str]:
    """Find the literals in an expression, also where it has names of a local or a constant of the module."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.Name):
            for scope in (function, module):
                for other in ast.walk(scope) if scope is function else module.body:
                    if isinstance(other, ast.Assign) and each.id in [
                        target.id for target in other.targets if isinstance(target, ast.Name)
                    ]:
                        yield from _literals(other.value, function, module)


def lines_of(path: Path, source: str) -> Iterator[Line]:
    module = ast.parse(source)
    functions = [node for node in ast.walk(module) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = {node: function for function in functions for node in ast.walk(function)}  # the innermost comes last
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and _logs(node.func):
            yield Line(f"{path.parent.name}/{path.name}:{node.lineno}", node, around.get(node, module), module)


def _logs(node: ast.expr) -> bool:
    is_method = isinstance(node, ast.Attribute) and node.attr in METHODS
    return is_method and LOGGER.search(ast.unparse(node.value)) is not None


@functools.cache
def all_lines() -> list[Line]:
    """Return those of the package. Not while tests are collected, which each process does."""
    return [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "logs.py" or path.parent != PACKAGE
        for line in lines_of(path, path.read_text())
    ]


def problems_of(line: Line) -> list[str]:
    """Return what is wrong with a line."""
    return [*_in_its_text(line), *_in_its_record(line), *_in_its_arguments(line)]


def _in_its_text(line: Line) -> Iterator[str]:
    text = " ".join(line.texts)
    if not text:
        yield "its message is not a literal"
    if line.method in OF_TROUBLE:
        if not CONSEQUENCE.search(text):
            yield "it does not say what follows: '..., so ...'"
        if not NEXT_STEP.search(text):
            yield "it does not say what is done, or to be done: '...; ...'"


def _in_its_record(line: Line) -> Iterator[str]:
    names = {*_names_known_at(line)} | {node.attr for node in ast.walk(line.call) if isinstance(node, ast.Attribute)}
    for name in sorted({SUBJECTS[name] for name in names & {*SUBJECTS}} - line.extra):
        yield f"its record does not have the {name} that is known there"


def _names_known_at(line: Line) -> Iterator[str]:
    """Return the arguments and variables that have a value there; those of comprehensions and other loops have none."""
    for node in ast.walk(line.function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.For, ast.comprehension)):
            if line.call in ast.walk(node):
                yield from (name.id for name in ast.walk(node.target) if isinstance(name, ast.Name))
        elif isinstance(node, (ast.Assign, ast.NamedExpr)) and node.lineno < line.call.lineno:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def _in_its_arguments(line: Line) -> Iterator[str]:
    for argument in line.call.args[1:]:
        shown = ast.unparse(argument)
        words = [part for node in ast.walk(argument) for part in (getattr(node, "id", ""), getattr(node, "attr", ""))]
        if any(map(SECRETS.search, words)) and "redact(" not in shown:
            yield f"it may show a secret: {shown}"


def test_each_line_says_what_follows_and_what_to_do() -> None:
    assert {line.place: problems for line in all_lines() if (problems := problems_of(line))} == {}


def test_all_lines_are_looked_at() -> None:
    of_trouble = [line for line in all_lines() if line.method in OF_TROUBLE]
    assert len(of_trouble) > 90
    found = sum(
        len(re.findall(r"(?:log|logger|_failures)\.(?:warning|error|suppressing)\(", path.read_text()))
        for path in PACKAGE.rglob("*.py")
        if path.name != "logs.py"
    )
    assert len(of_trouble) == found


GOOD = "self._log.warning('x failed, so y waits; trying again: %s', error)"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (GOOD, None),
        ("self._log.warning('x failed: %s', error)", "what follows"),
        ("self._log.warning('x failed: %s', error)", "to be done"),
        ("self._log.warning('x failed, so y waits: %s', error)", "to be done"),
        ("self._log.debug('x failed')", None),
        ("self._log.error(text)", "literal"),
        ("with self._log.suppressing('x failed; trying again'): pass", "what follows"),
        (f"project_id = 1\n    {GOOD}", "project_id that is known"),
        (f"project_id = 1\n    {GOOD[:-1]}, project_id=project_id)", None),
        (f"for job_id in error: {GOOD}", "job_id that is known"),
        (f"[job_id for job_id in error]; {GOOD}", None),
        ("logger.error('x of %s failed, so y; z', self.job_id)", "job_id that is known"),
        ("logger.error('x of %s failed, so y; z', self.job_id, extra=about(self.job_id))", None),
        ("logger.error('x at %s failed, so y; z', self._url)", "a secret"),
        ("logger.error('x at %s failed, so y; z', redact(self._url))", None),
        ("logger.error('x of %s failed, so y; z', secret_key)", "a secret"),
        ("kind = 'so y'; logger.error('x, ' + kind + '; z')", None),
    ],
)
def test_a_line_that_lacks_something_is_found(body: str, complaint: str | None) -> None:
    [line] = lines_of(Path("module.py"), f"def f(self, error):\n    {body}\n")
    found = problems_of(line)
    assert found == [] if complaint is None else any(complaint in problem for problem in found)
