"""Every advice (``fix=``) of the package names commands, options, extras and names that exist."""

from __future__ import annotations

import ast
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import fixes_builds  # noqa: F401 - registers its cases
import fixes_commands  # noqa: F401 - the same
import fixes_data  # noqa: F401 - the same
import fixes_graphs  # noqa: F401 - the same
import fixes_networks  # noqa: F401 - the same
import fixes_outputs  # noqa: F401 - the same
import fixes_serve  # noqa: F401 - the same
import fixes_words  # noqa: F401 - the same
import pytest
from fixes_lab import ALL, CALLED, CASES, DATA, HEAVY, Lab
from fixes_reasons import ONLY_BY_HEAVY_CASES, REASONS

import fer_edge
from fer_edge.backends import backend_class
from fer_edge.bundle import Bundle
from fer_edge.bundle.usable import WhyNot, usable_engine
from fer_edge.cli import COMMANDS, group
from fer_edge.files import parse_toml
from fer_edge.pretrained import pretrained_path
from fer_edge.records import keys
from fer_edge.runs.recipe import Recipe

PACKAGE = Path(fer_edge.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "_resources" not in path.parts)
HOLE = "\u2026"
"""Stands for what a text gets when it is raised."""
OTHERS = {
    *("apt-get", "bench", "cmake", "ffmpeg", "find", "git", "ls", "make", "mv", "nvidia-smi"),
    *("pip", "python", "systemctl", "trtexec", "ulimit", "unzip", "v4l2-ctl"),
}
"""Programs of others that an advice may name; their options are not ours."""
OTHER_OPTIONS = {"--system-site-packages"}
FILES_AND_CALLS = ("model.safetensors", "run.json", "model.onnx", "model.eval")
"""Names with a dot that are no keys of a recipe."""
NAMES_OF_FIXES = re.compile("(?<!pre)fix|_FIXES|_AGAIN|_MAKE_ONE|_INSTALL")
TABLES = "augment|data|distill|ema|loss|model|optim|run|schedule|stop"


@cache
def constants() -> dict[str, str]:
    """The texts of constants at the top of all files: names that mean two texts are left out."""
    found: dict[str, str | None] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, value = node.targets[0].id, node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    same = found.setdefault(name, value.value) == value.value
                    found[name] = value.value if same else None
    return {name: text for name, text in found.items() if text is not None}


def part_of(node: ast.expr) -> str:
    """Return the text of a part of an f-string: of a constant, too; else a hole."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name):
        return constants().get(node.value.id, HOLE)
    return HOLE


def text_of(node: ast.expr) -> list[str]:
    """Return the texts that an expression may give; what is computed is a hole."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(map(part_of, node.values))]
    if isinstance(node, ast.Name) and node.id in constants():
        return [constants()[node.id]]
    if isinstance(node, ast.IfExp):
        return text_of(node.body) + text_of(node.orelse)
    if isinstance(node, ast.BoolOp):
        return [text for value in node.values for text in text_of(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in text_of(node.left) or [HOLE] for b in text_of(node.right) or [HOLE]]
    if isinstance(node, ast.Dict):
        return [text for value in node.values for text in text_of(value)]
    return []


def fixes() -> Iterator[tuple[str, str]]:
    """Yield (where, text): of ``fix=``, and of what is assigned to a name of a fix."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found: list[str] = []
            if isinstance(node, ast.keyword) and node.arg in {"fix", "or_else"}:
                found = text_of(node.value)
            elif isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                if any(
                    re.search("(?<!pre)fix|_FIXES|_AGAIN|_MAKE_ONE|_INSTALL", name)
                    for name in names
                ):
                    found = text_of(node.value)
            elif isinstance(node, ast.FunctionDef) and re.search("fix|build_command", node.name):
                returns = [each for each in ast.walk(node) if isinstance(each, ast.Return)]
                found = [text for each in returns if each.value for text in text_of(each.value)]
            for text in found:
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", text


FIXES = list(dict.fromkeys(fixes()))


@cache
def command_of(words: tuple[str, ...]) -> tuple[click.Command, int] | None:
    """Return the command that the first words name, and how many they are."""
    if not words or words[0] not in COMMANDS:
        return None
    found = group.get_command(click.Context(group), words[0])
    assert found is not None
    if isinstance(found, click.Group) and len(words) > 1 and words[1] in found.commands:
        return found.commands[words[1]], 2
    return found, 1


def options_of(command: click.Command) -> set[str]:
    own = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return {*own, "--help", "-h"}


@cache
def every_option() -> frozenset[str]:
    """The options of all commands."""
    options: set[str] = set()
    for name in COMMANDS:
        found = command_of((name,))
        assert found is not None
        options |= options_of(found[0])
        if isinstance(found[0], click.Group):
            for each in found[0].commands.values():
                options |= options_of(each)
    return frozenset(options)


def problems(text: str) -> list[str]:
    """Return what an advice names that does not exist."""
    return [*wrong_commands(text), *wrong_options(CALLED.sub(" ", text)), *wrong_names(text)]


def wrong_commands(text: str) -> Iterator[str]:
    for called in CALLED.findall(text):
        words = tuple(word.rstrip(f",:{HOLE}") for word in called.split())
        found = command_of(words)
        if found is None:
            yield f"no command {words[0]!r}"
            continue
        for option in re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", called):
            if option not in options_of(found[0]):
                yield f"{words[0]} has no option {option}"


def wrong_options(text: str) -> Iterator[str]:
    """Yield what is wrong with options that stand without a command of ours."""
    if any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) for name in OTHERS):
        return
    for option in re.findall(r"(?<![\w-])(--[a-z][\w-]*)", text):
        if option not in every_option() | OTHER_OPTIONS:
            yield f"no command has the option {option}"


def wrong_names(text: str) -> Iterator[str]:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"fer-edge\[([a-z-]+)\]", text):
        if not re.search(rf"^{extra} = \[", project, re.MULTILINE):
            yield f"no extra {extra}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|[`:] ?)make ([a-z-]+)(?=`|$)", text):
        if not re.search(rf"^{target}:", makefile, re.MULTILINE):
            yield f"no make target {target}"
    for key in re.findall(rf"(?<![\w.`/])((?:{TABLES})\.[a-z_]+)\b", text):
        if key not in {*keys(Recipe), "model.options", *FILES_AND_CALLS}:
            yield f"a recipe has no {key}"
    for name in re.findall(r"\b(Classifier|FerDataset)\.(\w+)", text):
        home = {"Classifier": "fer_edge.classifier", "FerDataset": "fer_edge.data"}[name[0]]
        if not hasattr(getattr(import_module(home), name[0]), name[1]):
            yield f"no {'.'.join(name)}"


def test_there_are_many() -> None:
    """The walk finds the advice of all parts of the package."""
    assert len(FIXES) > 250
    parts = {where.split("/")[1] for where, _ in FIXES}
    assert {"bundle", "cli", "data", "runs", "training", "trt", "video"} <= parts


@pytest.mark.parametrize("where", sorted({where.partition(":")[0] for where, _ in FIXES}))
def test_advice_names_what_exists(where: str) -> None:
    wrong = [
        f"{place}: {text!r}: {problem}"
        for place, text in FIXES
        if place.partition(":")[0] == where
        for problem in problems(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fer-edge biuld", "no command"),
        ("build it: fer-edge build --precission int8", "no option --precission"),
        ("fer-edge bundle pack X --replace", "no option --replace"),
        ("use --color", "no command has the option --color"),
        ("pip install 'fer-edge[nothing]'", "no extra nothing"),
        ("make nothing", "no make target nothing"),
        ("use Classifier.predict_all", "no Classifier.predict_all"),
        ("--set optim.rate=1", "a recipe has no optim.rate"),
    ],
)
def test_the_check_finds_what_is_wrong(text: str, problem: str) -> None:
    assert any(problem in found for found in problems(text))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "tensorrt-dla"])
def test_a_missing_plan_is_built_into_a_copy_of_the_package(backend: str) -> None:
    bundle = Bundle.open(pretrained_path("votes"))
    for precision in (None, "int8", "fp16", "fp32"):
        answer = usable_engine(bundle, backend_class(backend), precision, here=False)
        assert isinstance(answer, WhyNot)
        assert answer.fix is not None
        assert not problems(answer.fix)
        assert f"--target {backend}" in answer.fix
        assert "-o " in answer.fix
        assert str(PACKAGE) not in answer.fix
        if precision is None:
            assert "--precision fp32" not in answer.fix
        words = shlex.split(answer.fix.partition("fer-edge ")[2])
        found = command_of(tuple(words))
        assert found is not None
        # The real parser of the real command takes it.
        context = found[0].make_context(words[0], words[found[1] :], resilient_parsing=False)
        assert context.params["target"] == backend


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The inputs that all cases share; its folder is the working folder, with runs in ``runs``."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("lab")
        patch.chdir(root)
        patch.setenv("FER_EDGE_DATA", DATA)
        patch.delenv("FER_EDGE_RUNS", raising=False)
        yield Lab(root)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_an_advice_says_works(case: Callable[[Lab], None], lab: Lab) -> None:
    if case.__name__ in HEAVY and not ALL:
        pytest.skip("it trains several networks: make fixes")
    lab.run(case)


def pattern_of(template: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, template.split(HOLE))), re.DOTALL)


def literal(template: str) -> int:
    return len(template.replace(HOLE, ""))


def templates() -> set[str]:
    """The texts that are advice, not only a short part of one."""
    return {text for _, text in FIXES if literal(text) > 2}


def executed_templates(executed: set[str]) -> set[str]:
    """Return the templates that what was executed was made of: for each text the most exact."""
    patterns = {template: pattern_of(template) for template in templates()}
    found: set[str] = set()
    for text in executed:
        whole = [each for each, pattern in patterns.items() if pattern.fullmatch(text)]
        if whole:
            most = max(map(literal, whole))
            found.update(each for each in whole if literal(each) == most)
            if most == len(text):
                continue
        # A text that is put together: its parts.
        found.update(
            each
            for each, pattern in patterns.items()
            if literal(each) >= 12 and each not in whole and pattern.search(text)
        )
    return found


def state_of_all(lab: Lab) -> tuple[set[str], set[str]]:
    """Execute the cases; return the templates that were executed, and the others."""
    for case in CASES:
        if case.__name__ in HEAVY and not ALL:
            continue
        with suppress(BaseException):  # its own test says what is wrong
            lab.run(case)
    executed = executed_templates(lab.executed)
    return executed, templates() - executed


def test_every_advice_is_executed_or_says_why_not(lab: Lab) -> None:
    executed, others = state_of_all(lab)
    assert len(executed) > 100
    later = set() if ALL else ONLY_BY_HEAVY_CASES
    new = sorted(others - set(REASONS) - later)
    assert new == [], "write a case (fixes_words.py, fixes_commands.py), or a reason"
    listed = {*REASONS, *later}
    assert sorted(listed & executed) == [], "these have a case now: remove them from the list"
    assert sorted(listed - templates()) == [], "these are no advice any more"


def test_a_case_that_does_nothing_about_its_mistake_fails(lab: Lab) -> None:
    def lazy(lab: Lab) -> None:
        lab.refused(lambda: parse_toml("a =", "a.toml"))

    with pytest.raises(AssertionError, match="nothing was done about"):
        lab.run(lazy)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["FER_EDGE_DATA"] = DATA
        done, rest = state_of_all(Lab(Path(folder)))
    sys.stdout.write(
        f"{len(done)} executed, {len(rest & set(REASONS))} cannot be, "
        f"{len(rest - set(REASONS))} have no case\n"
    )
    for place, text in FIXES:
        state = "executed" if text in done else "cannot be" if text in REASONS else "no case"
        sys.stdout.write(f"{state:9} {place}: {text}\n")
