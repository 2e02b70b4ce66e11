"""One word, one meaning: CONTRIBUTING's section "Words", where a program can check it.

A rule names a word and the files that it has no place in. Only files where the word once had a
second meaning are named: elsewhere a list of words would find noise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

import fer_edge
from fer_edge import cli
from fer_edge.backends import BACKENDS

PACKAGE = Path(fer_edge.__file__).parent
ROOT = PACKAGE.parent


@dataclass(frozen=True)
class Rule:
    """``pattern`` has no place in ``files`` (globs), since there it would mean ``instead``."""

    pattern: str
    files: tuple[str, ...]
    instead: str
    but: tuple[str, ...] = ()
    """Texts that may stay: names on disk, and terms of the field."""


RULES = {
    "calibration": Rule(
        r"(?i)calibrat",
        ("confidence.py", "temperature.py", "predict.py", "classifier.py"),
        "a confidence is fitted; calibration is INT8's",
        (
            "expected calibration error",
            "expected_calibration_error",
            "On Calibration of Modern Neural Networks",
            "calibrated.safetensors",
            "uncalibrated_sha256",
        ),
    ),
    "verify": Rule(
        r"(?i)verif",
        ("bundle.py", "manifest.py", "packing.py", "swap.py", "files.py", "inspect.py"),
        "digests are checked; verify is accuracy",
    ),
    "plan": Rule(
        r"(?i)\b_?plans?\b|[a-z]Plan\b|plan_|_plan\b",
        ("training/**/*.py", "report/training_display.py"),
        "an overview or a setup; a plan is TensorRT's",
    ),
    "checkpoint": Rule(
        r"(?i)checkpoint",
        ("training/**/*.py",),
        "a saved state, or weights; the checkpoint is a bundle's",
        ("``checkpoint`` (the state to resume from)",),
    ),
    "target": Rule(
        r"\btarget\b",
        ("files.py", "swap.py", "packing.py", "confidence.py"),
        "a path, or the accuracy to reach; a target is built for",
        # What is learnt has this name in recipes, too.
        ("``target``", '"target"', "loss.target", "target=learnt_target"),
    ),
    "shape": Rule(
        r"\.shape not in|target\.shape|\bshape: str",
        ("**/*.py",),
        "the placement of Q/DQ pairs; a shape is a tensor's",
    ),
}

HELP = {
    "calibrat": {"build", "report"},
    "verif": {"build", "verify"},
    "checkpoint": {"explain", "train"},
}
"""Part of a word -> the commands whose help may use it."""

GLOSSARY = (
    *("calibration", "confidence", "backend", "engine", "bundle", "artifact", "plan", "target"),
    *("placement", "verify", "check", "gate", "reference", "flip", "run", "weights", "checkpoint"),
    *("state", "recipe", "plug-in", "soup", "label", "label set", "votes", "majority", "share"),
    "prior",
)


def _uses(text: str, rule: Rule) -> list[str]:
    for term in rule.but:
        text = text.replace(term, "")
    return [line.strip() for line in text.splitlines() if re.search(rule.pattern, line)]


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the name of every command with all that its help shows."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        with click.Context(command, info_name=name) as ctx:
            yield " ".join((*path, name)), command.get_help(ctx)
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


@pytest.mark.parametrize("word", RULES)
def test_a_word_keeps_its_meaning(word: str) -> None:
    rule = RULES[word]
    for pattern in rule.files:
        files = list(PACKAGE.rglob(pattern.removeprefix("**/")))
        assert files, f"no file is named {pattern}: did it move?"
        for path in files:
            found = _uses(path.read_text(encoding="utf-8"), rule)
            assert not found, f"{path.relative_to(ROOT)}: {rule.instead}: {found}"


def test_a_second_meaning_would_be_found() -> None:
    assert _uses("def calibrate_run(run: Path) -> None:", RULES["calibration"])
    assert _uses("    def verify(self) -> None:", RULES["verify"])
    assert _uses("class QatPlan:", RULES["plan"])
    assert _uses("def qat_plan(src: Path) -> None:", RULES["plan"])
    assert _uses("    def plan(self) -> None:", RULES["plan"])
    assert not _uses("    def draw_explanations(planes: int) -> None:", RULES["plan"])
    assert not _uses('found["ece"] = expected_calibration_error(x)', RULES["calibration"])


def test_help_uses_a_word_where_it_has_its_meaning() -> None:
    shown = dict(_commands(cli.group))
    assert set(cli.COMMANDS) <= set(shown)
    for word, commands in HELP.items():
        using = {name for name, text in shown.items() if word in text.lower()}
        assert using <= commands, f"{word}: {using - commands}"


def test_backend_names_a_runtime_in_help() -> None:
    seen = 0
    for name in cli.COMMANDS:
        command = cli.group.get_command(click.Context(cli.group), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option) and "--backend" in option.opts:
                seen += 1
                assert "backend" in (option.help or ""), name
                assert "engine" not in (option.help or ""), name
                if not option.multiple:  # bench takes them all
                    named = set(re.findall(r"[a-z][a-z-]*", option.help or ""))
                    assert set(BACKENDS) - {"null"} <= named, name
    assert seen >= 4


def test_no_document_or_message_names_a_deprecated_command() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("engines/**/*.md")]
    sources = [*PACKAGE.rglob("*.py"), *ROOT.glob("bench/*.py")]
    old = [words[0] for words in cli.DEPRECATED if len(words) == 1]
    assert old
    for path in (*documents, *sources):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in old if f"fer-edge {name}" in text], path


def test_the_glossary_explains_each_word_once() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Words\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"\*\*(\w[\w -]*)\*\*:", section)) == sorted(GLOSSARY)
