# SPDX-License-Identifier: Apache-2.0
"""The house rules as tests: linters, types, who may import what, sizes, names, licences.

A rule is a function from a file's name and text to the problems found. The lower half plants one fault
for each rule and each linter and wants it found, so that a rule that has gone blind fails too.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from conftest import ROOT, need_of_root

SKIPPED = re.compile(
    r"^(\.git|\.venv|\.\w+_cache|\.hypothesis|__pycache__|build|dist|node_modules|bpf_objects|bpf_sources|.*\.egg-info)$"
)
PYPROJECT = str(ROOT / "pyproject.toml")
APACHE = "SPDX-License-Identifier: Apache-2.0"
DUAL = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"
FORBIDDEN_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "manager", "managers", "base"})
FORBIDDEN_VERBS = frozenset({"process", "handle", "manage", "do"})
# socketserver, http.server and httpx call these.
OWED_NAMES = frozenset(
    {
        "do_GET",
        "do_POST",
        "handle_starttag",
        "handle_endtag",
        "handle_data",
        "handle",
        "handle_error",
        "handle_request",
        "process_request",
        "process_request_thread",
    }
)
# Paths of a developer's machine and hosts of package registries; [] hides the rule from itself.
MACHINE = re.compile(
    r"(?<![\w.~*}-])/(wor[k]/|hom[e]/\w|User[s]/|tm[p]/w/|opt/(pyp[i]|wheel[s]))|\.pyen[v]"
    r"|\b(pypi|pythonhosted|download\.pytorch|(deb|snapshot)\.debian|registry\.npmjs|proxy\.golang)\.or[g]\b"
)
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.Match)
H = "daemon/homebound/"
SECRETS = tuple(f"{H}{name}.py" for name in ("books/signing", "guard/noise", "guard/secagg/sealing"))
# Where a third-party (or a sharp standard) module may be imported. Tests are free; the rest is refused.
PLACES: dict[str, tuple[str, ...]] = {
    "annotated_types": (f"{H}settings.py", f"{H}valuekinds.py", f"{H}config/reference.py"),
    "bcc": (f"{H}kernel/",),
    "click": (f"{H}cli/", f"{H}gateway/identity.py"),  # Flower's builder raises click's errors
    "cryptography": (f"{H}gateway/", f"{H}demo/", *SECRETS),
    "ctypes": (
        f"{H}kernel/", f"{H}leaktest/", f"{H}rooms/canary.py", f"{H}guard/memory.py", f"{H}events.py",
        f"{H}structs.py",
    ),
    "flwr": (
        f"{H}recorddict.py", f"{H}trainer/app.py", f"{H}gateway/federation.py", f"{H}gateway/messages.py",
        f"{H}gateway/identity.py", f"{H}demo/", "examples/",
    ),
    "httpcore": (f"{H}gateway/",),
    "httpx": (f"{H}gateway/",),
    "opacus": ("examples/dpsgd/",),
    "numpy": (f"{H}records.py", f"{H}recorddict.py", f"{H}trainer/", f"{H}guard/", f"{H}demo/", "examples/"),
    "prometheus_client": (f"{H}watcher/",),
    "psutil": (f"{H}kernel/",),
    "pydantic": (f"{H}config/reading.py",),
    "pyroute2": (f"{H}kernel/",),
    "rich": (f"{H}cli/terminal.py", f"{H}demo/"),
    "safetensors": (f"{H}records.py", f"{H}guard/"),
    "sklearn": (f"{H}demo/", "examples/"),
    "sqlite3": (f"{H}books/ledger.py",),
    "systemd": (f"{H}journal.py", f"{H}supervisor/notify.py"),
    "torch": (f"{H}trainer/", "examples/"),
}  # fmt: skip
# What of ours a part may import at all; a part that is not named here is held by import-linter alone.
OURS: dict[str, frozenset[str]] = {
    f"{H}kernel/enter.py": frozenset({"kernel.landlock", "kernel.refusals"}),
    f"{H}kernel/": frozenset({"errors", "events", "structs", "kernel"}),
    f"{H}errors.py": frozenset(),
    **{
        f"{H}{leaf}.py": frozenset({"errors"})
        for leaf in ("structs", "channel", "records", "control", "metrics", "journal")
    },
    f"{H}settings.py": frozenset({"valuekinds"}),
    f"{H}valuekinds.py": frozenset(),
    f"{H}events.py": frozenset({"errors", "structs"}),
    f"{H}watcher/policy.py": frozenset({"errors", "events"}),
    f"{H}books/accounts.py": frozenset({"errors", "events"}),
    f"{H}recorddict.py": frozenset({"errors", "records"}),
}

Rule = Callable[[str, str], list[str]]


def project_files() -> Iterator[tuple[str, Path]]:
    """Name below the root (slashes) and path of each file that belongs to the project."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not SKIPPED.match(name))
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith("vmlinux") and path.suffix not in (".o", ".pyc") and not path.is_symlink():
                yield path.relative_to(ROOT).as_posix(), path


def is_source(name: str) -> bool:
    """Whether a file is one that people write code in."""
    path = PurePosixPath(name)
    return path.suffix in (".py", ".c", ".h", ".sh") or path.name == "Makefile" or name == ".ci/run"


def is_shell(name: str, text: str) -> bool:
    return name.endswith(".sh") or text.startswith(("#!/usr/bin/env bash", "#!/bin/sh", "#!/bin/bash"))


def spdx(name: str, text: str) -> list[str]:
    """The licence stands in the first line, or in the second below a shebang."""
    if not is_source(name) or not text:
        return []
    lines = text.splitlines()
    first = lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0]
    # What runs in the kernel; a dual licence lets it call all of the kernel's functions.
    wanted = DUAL if name.startswith(("bpf/", "examples/probes/")) else APACHE
    return [] if first.endswith(wanted) else [f"{name}:1: first line is not {wanted}"]


def docstring(name: str, text: str) -> list[str]:
    """A file of the package says what it does, may see and may import."""
    if not name.startswith("daemon/") or not name.endswith(".py"):
        return []
    tree = ast.parse(text)
    return [f"{name}:1: no docstring"] if tree.body and not ast.get_docstring(tree) else []


def file_length(name: str, text: str) -> list[str]:
    limit = 250 if name.startswith("bpf/") and name.endswith((".c", ".h")) else 400
    count = text.count("\n")
    return [f"{name}:{count}: over {limit} lines, split it"] if is_source(name) and count > limit else []


def functions(name: str, text: str) -> list[str]:
    """A function has at most 60 lines, and in Python at most three branches or loops inside one another."""
    problems = []
    if name.endswith((".c", ".h")):
        start = 0
        for number, line in enumerate(text.splitlines(), 1):
            start = number if line == "{" else start
            if line == "}" and start and number - start + 1 > 60:
                problems.append(f"{name}:{start}: a function of {number - start + 1} lines")
    for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > 60:
            problems.append(f"{name}:{node.lineno}: {node.name} has {lines} lines")
        if (depth := nesting(node)) > 3:
            problems.append(f"{name}:{node.lineno}: {node.name} nests {depth} deep")
    return problems


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How deep branches and loops stand in one another. "elif" and nested functions add nothing."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, nesting(child, depth + (isinstance(child, BRANCHES) and not chained)))
    return deepest


def names(name: str, text: str) -> list[str]:
    """Nothing is called by a word that says nothing."""
    problems = []
    for part in PurePosixPath(name).parts:
        if FORBIDDEN_NAMES & set(re.split(r"[._-]", part.lower())):
            problems.append(f"{name}: the name says nothing")
    for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
        if isinstance(node, ast.ClassDef):
            words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", node.name)}
            if words & FORBIDDEN_NAMES:
                problems.append(f"{name}:{node.lineno}: class {node.name}: the name says nothing")
        called = node.name if isinstance(node, ast.FunctionDef) else ""
        if called not in OWED_NAMES and called.lstrip("_").split("_")[0] in FORBIDDEN_VERBS:
            problems.append(f"{name}: {called}: the verb says nothing")
    return problems


def machine(name: str, text: str) -> list[str]:
    """No file knows a developer's machine or a package registry."""
    return [
        f"{name}:{number}: {match.group()!r} belongs to a machine"
        for number, line in enumerate(text.splitlines(), 1)
        if (match := MACHINE.search(line))
    ]


def imported(text: str) -> Iterator[tuple[int, str]]:
    """Line and full name of each import, wherever it stands; "from a import b" gives a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def third_party(name: str, text: str) -> list[str]:
    """Each foreign module has its rooms; one that has none is not a dependency of ours."""
    if not name.endswith(".py") or not name.startswith(("daemon/", "examples/")):
        return []
    problems: dict[str, str] = {}
    folders = [ROOT / folder for folder in PurePosixPath(name).parents if folder.parts[:1] == ("examples",)]
    for line, module in imported(text):
        top = module.split(".")[0]
        free = (top in sys.stdlib_module_names and top not in PLACES) or top == "homebound"
        beside = any((folder / top).exists() or (folder / f"{top}.py").exists() for folder in folders)
        if not free and not beside and not name.startswith(PLACES.get(top, ())):
            rooms = ", ".join(PLACES.get(top, ())) or "no file"
            problems.setdefault(top, f"{name}:{line}: {top} may be imported in {rooms}")
    return list(problems.values())


def ours(name: str, text: str) -> list[str]:
    """The parts that others rest on import no more of ours than they are allowed."""
    allowed = next((allowed for place, allowed in OURS.items() if name.startswith(place)), None)
    if allowed is None or not name.endswith(".py"):
        return []
    return [
        f"{name}:{line}: may not import {module}"
        for line, module in imported(text)
        if module.startswith("homebound.")
        and module != "homebound.__version__"
        and not any(f"{module}.".startswith(f"homebound.{part}.") for part in allowed)
    ]


RULES: tuple[Rule, ...] = (spdx, docstring, file_length, functions, names, machine, third_party, ours)


def tool(name: str) -> str:
    """A linter's path: that of this environment before any other."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.fail(f"{name} is missing: run make setup", pytrace=False)
    return found


def lint(arguments: list[str], targets: list[str], cwd: Path = ROOT, **environ: str) -> str:
    """What a linter found in the targets; empty when all is well."""
    done = subprocess.run(
        [tool(arguments[0]), *arguments[1:], *targets],
        cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=100,
        env={**os.environ, "NO_COLOR": "1", **environ},
    )  # fmt: skip
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip() or f"exit {done.returncode}"


def reject(problems: list[str]) -> None:
    """Fail with the problems alone, the first forty of them."""
    if problems:
        more = [f"... and {len(problems) - 40} more"] if len(problems) > 40 else []
        pytest.fail("\n".join([*problems[:40], *more]), pytrace=False)


LINTERS: dict[str, list[str]] = {
    "ruff-check": ["ruff", "check", "--quiet", "--output-format=concise", f"--config={PYPROJECT}"],
    "ruff-format": ["ruff", "format", "--check", "--output-format=concise", f"--config={PYPROJECT}"],
    "mypy": ["mypy", "--no-error-summary", f"--config-file={PYPROJECT}"],
    "codespell": ["codespell", f"--toml={PYPROJECT}"],
    "shellcheck": ["shellcheck", "--format=gcc"],
    "clang-format": ["clang-format", "--dry-run", "-Werror", f"--style=file:{ROOT / '.clang-format'}"],
}


def targets_of(linter: str) -> list[str]:
    if linter == "shellcheck":
        shells = [str(path) for name, path in project_files() if is_shell(name, read(path))]
        assert shells, "no shell script found: the rule would check nothing"
        return shells
    if linter == "clang-format":
        c = [str(path) for name, path in project_files() if path.suffix in (".c", ".h")]
        assert c, "no C file found: the rule would check nothing"
        return c
    return [] if linter == "mypy" else ["."]  # mypy's own list is in pyproject.toml


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""  # a picture or another binary file has no rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    reject([problem for name, path in project_files() for problem in rule(name, read(path))])


@pytest.mark.parametrize("linter", LINTERS)
def test_linter(linter: str) -> None:
    reject(lint(LINTERS[linter], targets_of(linter)).splitlines())


def test_imports_follow_the_contracts() -> None:
    found = lint(["lint-imports", "--no-logo", PYPROJECT], [], PYTHONPATH=str(ROOT / "daemon"))
    reject([line for line in found.splitlines() if line.strip(" -") and not line.endswith("KEPT")])


def test_direct_dependencies_are_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    pins = {}
    for path in (ROOT / "packaging/requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
                assert match, f"{path.name}: {line} is not one package at one public version"
                pins[match[1]] = match[2]
    for requirement in map(Requirement, wanted):
        assert pins.get(requirement.name, "") in requirement.specifier, f"{requirement} is pinned otherwise"


# One planted fault for each rule; then the same without the fault.
LONG = "def f(x):\n" + "    x += 1\n" * 60
DEEP = "def f(x):\n for a in x:\n  if a:\n   while a:\n    if x: pass\n"
SHALLOW = "def f(x):\n for a in x:\n  if a:\n   pass\n  elif x:\n   while a: pass\n  elif a: pass\n"
C_LONG = "int f(void)\n{\n" + "\tf();\n" * 59 + "}\n"
PLANTED: list[tuple[Rule, str, str, str]] = [
    (spdx, "daemon/a.py", "import os\n", f"# {APACHE}\n"),
    (spdx, "bpf/a.bpf.c", f"// {APACHE}\n", f"// {DUAL}\n"),
    (spdx, "a.sh", "#!/bin/sh\necho\n", f"#!/bin/sh\n# {APACHE}\n"),
    (docstring, "daemon/a.py", f"# {APACHE}\nX = 1\n", f'# {APACHE}\n"""Says it."""\n'),
    (file_length, "tests/a.py", "\n" * 401, "\n" * 400),
    (file_length, "bpf/a.bpf.c", "\n" * 251, "\n" * 250),
    (functions, "daemon/a.py", LONG, LONG.replace("    x += 1\n", "", 1)),
    (functions, "daemon/a.py", DEEP, SHALLOW),
    (functions, "bpf/a.bpf.c", C_LONG, C_LONG.replace("\tf();\n", "", 1)),
    (names, "daemon/net_utils.py", "", ""),
    (names, "daemon/a.py", "class CgroupManager: ...", "class Cgroup: ..."),
    (names, "daemon/a.py", "def process_events(): ...", "def read_events(): ..."),
    (machine, "docs/a.md", "see /" + "work/x", "see bpf/" + "work/x"),
    (machine, "docs/a.md", "from https://pyp" + "i.org/simple", "from the index"),
    (third_party, f"{H}guard/a.py", "def f():\n    import torch.nn", "import numpy"),
    (third_party, f"{H}supervisor/daemon.py", "from ctypes import CDLL", "from os import read"),
    (third_party, f"{H}cli/main.py", "import leftpad", "import click"),
    (ours, f"{H}watcher/policy.py", "from homebound import channel", "from homebound import events"),
    (ours, f"{H}kernel/enter.py", "import homebound.kernel.maps", "from homebound.kernel.landlock import x"),
]


@pytest.mark.parametrize(("rule", "name", "bad", "good"), PLANTED)
def test_rule_sees_a_planted_fault(rule: Rule, name: str, bad: str, good: str) -> None:
    assert rule(name, bad)
    assert not rule(name.replace("utils", "links"), good)


HEAD = f"# {APACHE}\n"
PLANTED_LINT: dict[str, tuple[str, str, str]] = {
    "ruff-check": ("a.py", f"{HEAD}import pickle\n\npickle.loads(b'')\n", f"{HEAD}X = 1\n"),
    "ruff-format": ("a.py", f"{HEAD}X=1\n", f"{HEAD}X = 1\n"),
    "mypy": ("a.py", "def f(x):\n    return x\n", "def f(x: int) -> int:\n    return x\n"),
    "codespell": ("a.md", "we rec" + "ieve it\n", "we receive it\n"),
    "shellcheck": ("a.sh", "#!/bin/sh\necho $1\n", '#!/bin/sh\necho "$1"\n'),
    "clang-format": ("a.c", "int f(void) { return 1; }\n", "int f(void)\n{\n\treturn 1;\n}\n"),
}


@pytest.mark.parametrize("linter", LINTERS)
def test_linter_sees_a_planted_fault(linter: str, tmp_path: Path) -> None:
    name, bad, good = PLANTED_LINT[linter]
    path = tmp_path / name
    path.write_text(bad)
    assert lint(LINTERS[linter], [str(path)], cwd=tmp_path)
    path.write_text(good)
    assert lint(LINTERS[linter], [str(path)], cwd=tmp_path) == ""


def test_contracts_see_a_planted_import(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "daemon/homebound", tmp_path / "homebound", ignore=shutil.ignore_patterns("*.pyc"))
    arguments = ["lint-imports", "--no-logo", "--no-cache", PYPROJECT]
    with (tmp_path / "homebound/guard/__init__.py").open("a") as file:
        file.write("\nimport homebound.gateway\n")
    found = lint(arguments, [], cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "homebound.guard is not allowed to import homebound.gateway" in found


def test_root_rule() -> None:
    assert need_of_root(0, {"CI": "true"}) == "run"
    assert need_of_root(1000, {"CI": "true"}) == "fail"
    assert need_of_root(1000, {}) == "skip"
