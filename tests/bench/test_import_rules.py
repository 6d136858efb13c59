"""What may import what: docs/architecture.md has the rules in tables, and every file is held against them here."""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
PAGE = "docs/architecture.md"
PACKAGES = {
    name: ROOT / name.removeprefix("mnv3_") / name for name in ("mnv3_bench", "mnv3_models", "mnv3_reports")
}


class Import(NamedTuple):
    """One import, as it stands in a file."""

    module: str
    target: str
    """Module of ours, or what is imported of a library."""
    where: str
    """top, function or types."""
    line: int

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


class Group(NamedTuple):
    """A row of the page."""

    package: str
    name: str
    patterns: tuple[str, ...]
    may: frozenset[str]


# What the files say


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the three packages."""
    return {
        ".".join((package, *file.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): ast.parse(file.read_text(encoding="utf-8"))
        for package, root in PACKAGES.items()
        for file in sorted(root.rglob("*.py"))
    }


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for module, tree in modules().items() for found in imports_of(module, tree))


def imports_of(module: str, tree: ast.AST, where: str = "top") -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(module, name.name, where, node.lineno)
            case ast.ImportFrom(module=source, names=names, level=level):
                assert level == 0, f"{module} line {node.lineno}: imports are absolute"
                for name in names:
                    inner = f"{source}.{name.name}"
                    yield Import(module, inner if inner in modules() else str(source), where, node.lineno)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for each in node.body:
                    yield from imports_of(module, ast.Module([each], []), "types")
                for each in node.orelse:
                    yield from imports_of(module, ast.Module([each], []), where)
            case ast.FunctionDef() | ast.AsyncFunctionDef() if where == "top":
                yield from imports_of(module, node, "function")
            case _:
                yield from imports_of(module, node, where)


def below(module: str) -> str:
    """A module's name below its package; of the package itself, its name."""
    return module.partition(".")[2] or module


# What the page says


def table(heading: str) -> list[list[str]]:
    """Rows of the first table below a heading."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    part = text[text.index(f"\n{heading}\n") + len(heading) + 2 :]
    lines = re.search(r"^\|.*\n\| ?---.*\n((?:\|.*\n)+)", part, re.MULTILINE)
    assert lines is not None, f"{PAGE} has no table below '{heading}'"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1].splitlines()]


def named(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


@cache
def groups() -> tuple[Group, ...]:
    return tuple(
        Group(package, named(name)[0], named(patterns), frozenset(named(may)))
        for package in PACKAGES
        for name, patterns, _, may in table(f"### {package}")
    )


@cache
def group_of(module: str) -> Group:
    for group in groups():
        if group.package == module.partition(".")[0] and fits(module, group.patterns):
            return group
    raise AssertionError(f"{module} is in no group: name it in a table of {PAGE}")


def fits(module: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(below(module), pattern) for pattern in patterns)


@cache
def exceptions() -> frozenset[tuple[str, str]]:
    return frozenset(
        (named(module)[0], target)
        for module, targets, _ in table("### Exceptions")
        for target in named(targets)
    )


def only(kind: str) -> tuple[str, ...]:
    """Modules that a sentence of the page names after these words."""
    text = " ".join((ROOT / PAGE).read_text(encoding="utf-8").split())
    found = re.search(rf"{re.escape(kind)}((?:[^.`]|`[^`]*`)*)\.", text)
    assert found is not None, f"{PAGE} has no sentence with '{kind}'"
    return named(re.sub(r"\([^)]*\)", "", found[1]))


# What is wrong


def straight(found: Iterable[Import]) -> list[Import]:
    """Without those that the page excepts."""
    return [each for each in found if (each.module, each.target) not in exceptions()]


def misplaced(found: Iterable[Import]) -> list[str]:
    """Imports of ours that no row allows."""
    wrong = []
    for each in found:
        if each.target not in modules():
            continue
        here, there = group_of(each.module), group_of(each.target)
        packages = here.package, there.package
        if each.where == "types":
            allowed = here.package == "mnv3_bench" or packages[0] == packages[1]
        else:
            allowed = here == there or bool({there.name, there.package} & here.may)
        if not allowed:
            wrong.append(f"{each}: '{here.name}' may not import '{there.name}'")
    return wrong


def circle(found: Iterable[Import]) -> list[str]:
    """Modules that import each other in a circle; none where there is no circle."""
    graph: dict[str, set[str]] = {}
    for each in found:
        if each.where != "types" and each.target in modules() and each.target != each.module:
            graph.setdefault(each.module, set()).add(each.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def unlisted(found: Iterable[Import]) -> list[str]:
    """Imports of libraries that no row allows there."""
    rows = [
        (named(package)[0], named(libraries), named(patterns), where)
        for package, libraries, patterns, where in table("### Libraries")
    ]
    return [
        f"{each}, at the {each.where}" if each.where == "top" else str(each)
        for each in found
        if each.where != "types"
        and each.target.partition(".")[0] not in {*PACKAGES, *sys.stdlib_module_names}
        and not any(
            package == each.module.partition(".")[0]
            and any(f"{each.target}.".startswith(f"{library}.") for library in libraries)
            and fits(each.module, patterns)
            and where in ("top", each.where)
            for package, libraries, patterns, where in rows
        )
    ]


WRITING = {"mkdir", "rename", "rmdir", "symlink_to", "touch", "unlink", "write_bytes", "write_text"}
WRITING_OF = {
    "os": {
        "makedirs",
        "mkdir",
        "open",
        "remove",
        "rename",
        "replace",
        "rmdir",
        "truncate",
        "unlink",
        "write",
    },
    "shutil": {"copy", "copyfile", "copytree", "move", "rmtree"},
    "tempfile": {"mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory"},
}
HANDED_ON = {"write_file", "write_run", "write_text"}
"""Of `rundir`."""


def calls(tree: ast.AST) -> Iterator[tuple[str | None, str, ast.Call]]:
    """(what it is called on, where that is a name; the function's name; the call)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield None, node.func.id, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            yield owner.id if isinstance(owner, ast.Name) else "", node.func.attr, node


def writes(tree: ast.AST) -> list[int]:
    """Lines that write to a disk by themselves."""
    found = []
    for owner, function, call in calls(tree):
        modes = [
            given.value
            for given in (*call.args[:2], *(keyword.value for keyword in call.keywords))
            if isinstance(given, ast.Constant) and isinstance(given.value, str)
        ]
        opens = (
            function == "open" and owner != "os" and any(re.fullmatch("[wax]b?|r?b?\\+b?", m) for m in modes)
        )
        of_module = function in WRITING_OF.get(owner or "", set())
        if opens or of_module or (owner not in (None, "rundir", *WRITING_OF) and function in WRITING):
            found.append(call.lineno)
    return found


def hands_on(tree: ast.AST) -> list[int]:
    """Lines that have `rundir` write."""
    return [
        call.lineno
        for owner, function, call in calls(tree)
        if owner in (None, "rundir") and function in HANDED_ON
    ]


def draws(tree: ast.AST) -> list[int]:
    """Lines that make a picture of a chart."""
    return [call.lineno for _, function, call in calls(tree) if function == "to_svg"]


# The tests


def test_every_row_is_of_modules_that_are_there() -> None:
    names = {group.name for group in groups()}
    assert len(names) == len(groups())
    for group in groups():
        assert group.may <= names | set(PACKAGES), f"{PAGE}: '{group.name}' names {group.may - names}"
        for pattern in group.patterns:
            there = [m for m in modules() if m.partition(".")[0] == group.package and fits(m, [pattern])]
            assert there, f"{PAGE}: `{pattern}` of '{group.name}' is no module of {group.package}"
            assert any(group_of(m) == group for m in there), f"{PAGE}: `{pattern}` is all in earlier rows"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_of_a_package_is_its_table(package: str) -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    picture = text[text.index(f"\n### {package}\n") :].partition("```mermaid\n")[2].partition("```")[0]
    mine = {group.name: group.may for group in groups() if group.package == package}
    drawn = set()
    for sources, targets in re.findall(r"^ +(.+?) --> (.+)$", picture, re.MULTILINE):
        for source, target in itertools.product(sources.split(" & "), targets.split(" & ")):
            assert target in mine[source], (
                f"{PAGE} draws {source} --> {target}, which its table does not allow"
            )
            drawn |= {source, target}
    assert drawn == set(mine)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_imports_what_its_row_allows(package: str) -> None:
    mine = [each for each in imports() if each.module.partition(".")[0] == package]
    assert len(mine) > 100
    wrong = misplaced(straight(mine))
    assert not wrong, "\n".join([*dict.fromkeys(wrong), f"the rules are the tables of {PAGE}"])


def test_no_imports_run_in_a_circle() -> None:
    assert circle(straight(imports())) == [], f"{PAGE} says how"
    assert circle(each for each in imports() if each.where == "top") == []


def test_exceptions_are_inside_functions_and_still_needed() -> None:
    there = {(each.module, each.target): each for each in imports() if each.where == "function"}
    for pair in exceptions():
        assert pair in there, f"{PAGE}: {pair[0]} does not import {pair[1]} in a function any more"
        with_it = [*straight(imports()), there[pair]]
        assert circle(with_it) or misplaced([there[pair]]), f"{PAGE}: {pair[0]} may import {pair[1]} anyway"


def test_libraries_are_imported_where_the_page_says() -> None:
    wrong = unlisted(imports())
    assert not wrong, "\n".join([*dict.fromkeys(wrong), f"the table of libraries is in {PAGE}"])


def test_only_these_write() -> None:
    of_reports = {name: tree for name, tree in modules().items() if name.startswith("mnv3_reports")}
    themselves, others = only("Only these write to a disk themselves:"), only("and only these do:")
    assert "rundir" in themselves
    assert "writer" in others
    for name, tree in of_reports.items():
        if not fits(name, themselves):
            assert writes(tree) == [], f"{name} writes by itself; {PAGE} names who may"
        if not fits(name, (*themselves, *others)):
            assert hands_on(tree) == [], f"{name} has files written; {PAGE} names who may"
    for name in (*themselves, *others):
        mine = [tree for module, tree in of_reports.items() if fits(module, [name])]
        assert any(writes(tree) or hands_on(tree) for tree in mine), f"{PAGE}: {name} writes nothing"


def test_only_the_writer_draws() -> None:
    drawing = {name for name, tree in modules().items() if draws(tree)}
    assert drawing == {f"mnv3_reports.{name}" for name in only("Charts become pictures in")}


@pytest.mark.parametrize(
    ("module", "target", "where"),
    [
        ("mnv3_reports.summary", "mnv3_reports.markdown", "function"),
        ("mnv3_reports.markdown", "mnv3_reports.html.page", "top"),
        ("mnv3_reports.record", "mnv3_models.variants", "types"),
        ("mnv3_models.v3", "mnv3_bench.plan", "types"),
        ("mnv3_bench.backends.eager", "mnv3_bench.run", "function"),
        ("mnv3_bench.gate.command", "mnv3_bench.exporting.command", "top"),
        ("mnv3_bench.run", "mnv3_bench.cli", "function"),
    ],
)
def test_an_import_against_the_rules_is_found(module: str, target: str, where: str) -> None:
    assert misplaced([Import(module, target, where, 1)]) != []


@pytest.mark.parametrize(
    ("module", "target", "where"),
    [
        ("mnv3_bench.run", "torch", "function"),
        ("mnv3_bench.worker", "torch", "top"),
        ("mnv3_bench.backends.ncnn", "ncnn", "top"),
        ("mnv3_reports.rundir", "pyarrow", "top"),
        ("mnv3_reports.tables", "torch", "function"),
        ("mnv3_models.training.knobs", "requests", "top"),
    ],
)
def test_a_library_in_the_wrong_place_is_found(module: str, target: str, where: str) -> None:
    assert unlisted([Import(module, target, where, 1)]) != []


def test_circles_writing_and_drawing_are_found() -> None:
    first, second = "mnv3_reports.units", "mnv3_reports.statistics"
    assert circle([Import(first, second, "top", 1), Import(second, first, "function", 1)]) != []
    assert circle([Import(first, second, "top", 1), Import(second, first, "types", 1)]) == []
    code = "path.write_text(x)\nopen(p, 'w')\npath.open(mode='ab')\nos.replace(a, b)\nx.replace('a', 'b')\nopen(p)\n"
    assert writes(ast.parse(code)) == [1, 2, 3, 4]
    assert hands_on(ast.parse("write_text(p, x)\nrundir.write_run(r, p)\nf.write_text(x)\n")) == [1, 2]
    assert draws(ast.parse("charts.to_svg(x)\nto_svg(x)\n")) == [1, 2]
