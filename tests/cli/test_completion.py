"""``fer-edge completion``: bash, zsh and fish complete commands, options and values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from fer_edge.cli import COMMANDS, group, main

PLACES = {"bash": "bash-completion", "zsh": "_fer-edge", "fish": "fer-edge.fish"}


@pytest.fixture
def tool(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``fer-edge`` is this checkout."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fer-edge"
    program.write_text(f"#!{sys.executable}\nfrom fer_edge.cli import main\nmain()\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}


def offered(*words: str) -> dict[str, str]:
    """Return what is offered for the last word of a line, by name with its kind."""
    shell = BashComplete(group, {}, "fer-edge", "_FER_EDGE_COMPLETE")
    found = shell.get_completions(list(words[:-1]), words[-1])
    return {item.value: item.type for item in found}


@pytest.mark.parametrize("shell", PLACES)
def test_the_script_says_where_it_belongs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    printed = capsys.readouterr()
    assert printed.err == ""  # piped: a start-up file that evaluates it stays silent
    assert PLACES[shell] in printed.out
    assert printed.out.count("fer-edge") > 3
    if shell == "zsh":
        assert printed.out.startswith("#compdef fer-edge\n")


def test_an_unknown_shell_is_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_a_command(tool: dict[str, str]) -> None:
    script = (
        'set -e; eval "$(fer-edge completion bash)"; complete -p fer-edge; '
        "COMP_WORDS=(fer-edge ben); COMP_CWORD=1; _fer_edge_completion fer-edge; "
        'echo "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(
        ["bash", "--norc", "-c", script], env=tool, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    registered, found = ended.stdout.splitlines()
    assert registered.endswith("-F _fer_edge_completion fer-edge")
    assert found == "bench"


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_the_script(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    main(["completion", shell])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_what_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(offered("")) == set(COMMANDS)
    assert offered("bundle", "tri") == {"triton": "plain"}
    assert "--precision" in offered("build", "--prec")
    assert set(offered("bench", "--format", "")) >= {"json", "csv", "table"}
    assert offered("bundle", "pack", "x", "-o", "") == {"": "file"}
    # A line with a mistake says nothing into the line that is being typed.
    assert offered("biuld", "--") == offered("--")
    assert offered("calibrate", "")
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_a_command_s_name_is_completed_without_its_module() -> None:
    code = (
        "import sys\n"
        "from click.shell_completion import BashComplete\n"
        "from fer_edge.cli import group\n"
        "assert BashComplete(group, {}, 'fer-edge', 'X').get_completions([], 'tra')\n"
        "assert 'fer_edge.cli.train' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
