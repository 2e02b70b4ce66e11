"""The documents are correct: their commands run as written, and every name in them exists.

A block marked ``bash`` or ``python`` runs; one marked ``console`` or ``text``, or without a mark,
is shown only (another machine, a camera, another program).
"""

from __future__ import annotations

import ast
import io
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import api_pages
import blocks
import cli_pages
import click
import diary
import layers
import pictures
import pytest
from fixtures_classes import THREE, write_tree
from fixtures_votes import write_voted
from PIL import Image
from test_architecture import LEVELS

import fer_edge
from fer_edge import cli
from fer_edge.data import FerDataset, load
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.faces import detect
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.pretrained import pretrained_path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LONGEST_README = 120

SMALL = [
    *("--epochs", "2", "--set", "optim.batch_size=32"),
    *("--set", "model.options.widths=[16, 16, 32, 32]"),
]
FACES = "synthetic:640"
"""512 of them are in TRAIN: as many as the calibration of ``qat`` needs."""
SHORTER = {
    "train": SMALL,
    "search": ["--trials", "1", "--epochs", "1", "--recipe", "quick"],
    # Not recorded in the bundle: for `verify`, the speed of so small a network would decide.
    "bench": ["--quick", "--backend", "onnxruntime", "--no-record"],
    # Few faces to calibrate with; and engines of so small a network may be equally fast.
    "build": ["--no-speed", "--calibration", "stratified-128", "--method", "auto"],
}
"""Put behind a command so that it ends within seconds; what the document shows comes first.

``train --init`` and ``--teacher`` fit, for all runs are the same small network.
"""

ELSEWHERE = {
    "demo": "tests/cli/test_demo.py",
    "serve": "tests/serve/test_serve.py",
    "camera": "tests/cli/test_camera.py",
}
"""Commands that another test runs, with its file."""


def _pages() -> list[Path]:
    """Return README and the pages in the order of the navigation, which is how people read."""
    listed = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    return [ROOT / "README.md", *(DOCS / name for name in listed)]


def _ships() -> bool:
    """Whether this checkout has the pretrained bundle, which some commands need."""
    try:
        return pretrained_path().is_dir()
    except UsageError:
        return False


def _blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (page, block)
        for page in PAGES
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]


def _commands(block: str) -> list[list[str]]:
    """Return the ``fer-edge`` command lines of a shell block, in order."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fer-edge ")]


PAGES = _pages()
BLOCKS = [(page, _commands(block)) for page, block in _blocks("bash")]
COMMANDS = {shlex.join(words): words for _, lines in BLOCKS for words in lines}
"""The command lines of all documents, each once."""


def test_every_page_is_in_the_navigation() -> None:
    there = {path for path in DOCS.rglob("*.md") if "_tools" not in path.parts}
    assert there == set(PAGES[1:])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= LONGEST_README


def test_every_block_of_commands_is_read() -> None:
    """A block with a prompt or an indent would be left out without a word."""
    for page, block in _blocks("bash"):
        lines = [line for line in block.splitlines() if line.strip()]
        assert all(line.startswith(("fer-edge ", "#")) for line in lines), f"{page}: {block}"


def test_every_mentioned_command_exists() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        mentioned = set(re.findall(r"^(?:fer-edge|\w+\$ fer-edge) ([a-z]+)", text, re.MULTILINE))
        mentioned |= set(re.findall(r"`fer-edge ([a-z]+)", text))
        assert mentioned <= set(cli.COMMANDS), page


def test_every_option_in_a_shown_command_exists() -> None:
    """Also in blocks that no test can run: what is shown there must at least be known to click."""
    seen = 0
    for page in PAGES:
        for line in re.findall(
            r"^(?:\S*\$ )?fer-edge (.+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            words = shlex.split(line.replace("...", ""), comments=True)
            command = cli.group.get_command(click.Context(cli.group), words[0])
            while isinstance(command, click.Group) and words[1:2]:
                inner = command.get_command(click.Context(command), words[1])
                if inner is None:
                    break
                command, words = inner, words[1:]
            assert command is not None, f"{page}: {line}"
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= {*options, "--help", "--version"}, f"{page}: {line}"
            seen += len(used)
    assert seen > 40


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        assert (
            set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text("utf-8"), re.M)) <= targets
        )
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        called = set(re.findall(r"run: .*\bmake ([a-z0-9-]+)", workflow.read_text("utf-8")))
        assert called, f"{workflow} calls no make target"
        assert called <= targets, workflow


def test_every_file_named_in_the_documents_exists() -> None:
    made = {*api_pages.pages(), *cli_pages.pages(), *diary.pages(), *borrowed_pages()}
    checked = 0
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:\s]+)[)#]", page.read_text("utf-8")):
            goal = (page.parent / target).resolve()
            name = str(goal.relative_to(DOCS)) if goal.is_relative_to(DOCS) else ""
            assert goal.exists() or name in made, f"{page} links to {target}"
            checked += 1
    assert checked > 100


def borrowed_pages() -> set[str]:
    from borrowed import PICTURES, pages

    return {*pages(), *PICTURES.values()}


def test_every_environment_variable_is_documented() -> None:
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    package = Path(fer_edge.__file__).parent
    sources = [path.read_text("utf-8") for path in package.rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bFER_EDGE_[A-Z]+\b", text)}
    assert {"FER_EDGE_DATA", "FER_EDGE_RUNS"} <= used
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_the_version_has_one_source() -> None:
    tool = Path(sys.executable).with_name("fer-edge")
    assert tool.exists(), "the console script is not installed beside this Python"
    shown = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1] == fer_edge.__version__
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {fer_edge.__version__}\n" in citation
    assert f"## {fer_edge.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# What is made from the code.


def test_every_command_has_a_page_with_all_its_options() -> None:
    pages = cli_pages.pages()
    context = click.Context(cli.group)
    for name in cli.COMMANDS:
        text = pages[f"reference/cli/{name}.md"][1]
        command = cli.group.get_command(context, name)
        assert command is not None
        parts = command.commands.values() if isinstance(command, click.Group) else [command]
        for part in parts:
            for option in part.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert option.opts[-1] in text, f"{name}: {option.opts}"
        assert "```bash\nfer-edge" in text, f"{name} has no example"


def _names_of(path: Path) -> tuple[list[str], set[str]]:
    """Return ``__all__``, and those of its names that are defined here without a docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    exported: list[str] = []
    bare: set[str] = set()
    for node, after in zip(tree.body, [*tree.body[1:], None]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not ast.get_docstring(node):
            bare.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {
                name for target in targets for name in ast.unparse(target).strip("()").split(", ")
            }
            if "__all__" in names:
                assert node.value is not None
                exported = ast.literal_eval(node.value)
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not said:
                bare |= names
    return exported, bare & set(exported)


def _reference() -> str:
    return "\n".join(text for _, text in api_pages.pages().values())


def test_every_public_name_is_in_the_reference() -> None:
    """Read from every ``__all__`` again, by another way than the pages are made."""
    text = _reference()
    package = Path(fer_edge.__file__).parent
    counted = 0
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "_resources" in parts or module.startswith(("fer_edge.cli", "fer_edge.__main__")):
            continue
        exported, _ = _names_of(path)
        if module == "fer_edge":
            assert all(f"[`{name}`][fer_edge." in text for name in exported), exported
            continue
        section = text.partition(f"::: {module}\n")[2].partition("\n## ")[0]
        assert section, f"{module} is not in the reference"
        listed = set(re.findall(r"[\w]+", section))
        assert set(exported) <= listed, f"{module}: {set(exported) - listed}"
        counted += len(exported)
    assert counted > 500


def test_every_public_name_has_a_docstring() -> None:
    package = Path(fer_edge.__file__).parent
    bare = {
        str(path.relative_to(package)): names
        for path in package.rglob("*.py")
        if "_resources" not in path.parts and "cli" not in path.parts
        for names in [_names_of(path)[1]]
        if names
    }
    assert bare == {}


def test_a_name_without_a_docstring_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text('__all__ = ["A", "B", "f", "g"]\nA = 1\nB = 2\n"""b."""\ndef f(): ...\n')
    assert _names_of(path) == (["A", "B", "f", "g"], {"A", "f"})


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_drawn_and_shown(name: str) -> None:
    if name == "confidence" and not _ships():
        pytest.skip("this checkout has no pretrained bundle")
    from xml.etree import ElementTree

    drawing = pictures.PICTURES[name]()
    figure = ElementTree.fromstring(str(drawing))
    svg = figure[0]
    assert svg.get("aria-label")
    for box in svg.iter():
        x, y = float(box.get("x", 0)), float(box.get("y", 0))
        w, h = float(box.get("width", 0)), float(box.get("height", 0))
        if box is not svg:
            assert x >= 0, box.attrib
            assert x + w <= drawing.width, box.attrib
            assert y >= 0, box.attrib
            assert y + h <= drawing.height, box.attrib
    shown = [page for page in PAGES if f"<!-- picture: {name} -->" in page.read_text("utf-8")]
    assert shown, f"no page shows the picture {name}"


def test_a_wide_block_has_its_comments_above_the_commands() -> None:
    """On a page no comment is cut at the right, and no word of a block is lost."""
    moved = 0
    for page in PAGES[1:]:
        text = page.read_text("utf-8").replace("```console", "```bash")
        shown = blocks.narrowed(page.read_text("utf-8")).replace("```console", "```bash")
        assert sorted(shown.split()) == sorted(text.split()), page
        for block in re.findall(r"```bash\n(.*?)```", shown, re.DOTALL):
            wide = [line for line in block.splitlines() if len(line) > blocks.WIDEST]
            assert [line for line in wide if re.search(r"\S  +# ", line)] == [], page
        moved += shown != text
    assert moved > 5
    prompt = "```console\nmachine-1$ fer-edge doctor  # here\n```"
    assert blocks.narrowed(prompt) == prompt


def test_the_layers_are_those_that_the_import_test_enforces() -> None:
    assert layers.levels() == LEVELS
    drawn = set(re.findall(r">([a-z]+)</text>", str(layers.picture())))
    assert set(LEVELS) <= drawn


def test_the_diary_loses_nothing() -> None:
    """Every line of bench/experiments.md is on a page, links aside."""

    def bare(text: str) -> list[str]:
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
        return re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE).split()

    _, entries = diary.entries()
    pages = diary.pages()
    assert len(entries) >= 16
    for entry in entries:
        text = bare(pages[entry.path][1])
        assert bare(entry.text) == text[len(text) - len(bare(entry.text)) :]
    assert set(diary.results()) <= {entry.number for entry in entries}


# The commands.


def easy_faces() -> FerDataset:
    """Return drawn faces with a white bar at a height of the class: two epochs learn them.

    The INT8 gate needs a network that knows something: it passes none that answers by chance.
    """
    drawn = load(FACES)
    images = drawn.images.copy()
    for image, label in zip(images, drawn.labels.tolist()):
        image[6 * label : 6 * label + 6] = 255
    ids = [f"row-{i}" for i in range(len(drawn))]
    return dataset_from_rows(images, drawn.labels, drawn.split, ids, source="faces", synthetic=True)


class Walk:
    """The blocks of all documents, run in order in one folder, each command once.

    A block needs what the blocks before it wrote, so a test that is run alone runs those first.
    The commands run in this process: a start of Python with torch takes longer than most of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.codes: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self._next = 0
        Image.fromarray(load("synthetic:70").images[0]).save(folder / "face.jpg")
        write_voted(easy_faces(), folder)
        write_tree(folder / "photos", THREE, count=70)

    def run_to(self, block: int) -> None:
        while self._next <= block:
            self._next += 1
            for words in BLOCKS[self._next - 1][1]:
                line = shlex.join(words)
                if words[1] not in ELSEWHERE and line not in self.codes:
                    self.codes[line] = self._run(words, line)

    def _run(self, words: list[str], line: str) -> int:
        """Return the exit code; an exception that is not ours ends the test with its traceback."""
        out, err = io.StringIO(), io.StringIO()
        longer = SHORTER.get(words[1], [])
        if words[1] == "train" and "--recipe" not in words:
            longer = ["--recipe", "quick", *longer]
        if words[1] == "build" and {"fp32", "fp16"} & {*words}:
            longer = ["--no-speed"]  # nothing is calibrated
        if "data.holdout=0.05" in words:
            longer = [*longer, "--set", "data.holdout=0.2"]  # 5 % of few faces are too few
        if words[1] == "verify" and words[2].startswith("-"):
            # The network of the package guesses for these drawn faces: INT8 may guess otherwise.
            longer = [*longer, "--precision", "fp16"]
        try:
            with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
                cli.main([*words[1:], *longer])
        except SystemExit as end:
            self.errors[line] = err.getvalue()
            return int(end.code or 0)
        return 0


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("documents")
    quick = LatencyProtocol.for_quick
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FER_EDGE_DATA", str(folder / "faces.npz"))
        patch.delenv("FER_EDGE_RUNS", raising=False)
        short = {"warmup_s": 0.0, "measure_s": 0.05, "repeats": 1}
        patch.setattr(LatencyProtocol, "for_quick", lambda pace=None: replace(quick(pace), **short))
        yield Walk(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    range(len(BLOCKS)),
    ids=[f"{page.stem}-{'-'.join(lines[0][1:3])}" for page, lines in BLOCKS],
)
def test_the_commands_of_the_documents_end_with_0(walk: Walk, block: int) -> None:
    walk.run_to(block)
    for words in BLOCKS[block][1]:
        line = shlex.join(words)
        if words[1] in ELSEWHERE:
            continue
        if not _ships() and "no pretrained bundle" in walk.errors.get(line, ""):
            continue
        assert walk.codes[line] == 0, f"{line}\n{walk.errors[line]}"


@pytest.mark.slow
def test_every_command_really_ended_with_0(walk: Walk) -> None:
    """Counted: as many commands as the documents have."""
    walk.run_to(len(BLOCKS) - 1)
    run = [line for line, words in COMMANDS.items() if words[1] not in ELSEWHERE]
    ended = [line for line in run if walk.codes.get(line) == 0]
    if _ships():
        assert len(ended) == len(run) == len(walk.codes)
    assert len(ended) >= 40


@pytest.mark.slow
def test_the_python_of_the_documents_runs(walk: Walk, capsys: pytest.CaptureFixture[str]) -> None:
    walk.run_to(len(BLOCKS) - 1)
    blocks = _blocks("python")
    assert len(blocks) >= 3
    for page, block in blocks:
        if ("Classifier()" in block or "FaceAnalyzer()" in block) and not _ships():
            continue
        code = compile(block, str(page), "exec")
        if "FaceAnalyzer()" in block and detect.default_detector() is None:
            with pytest.raises(UnavailableError) as error:
                exec(code, {})
            assert error.value.fix == detect.INSTALL
            continue
        exec(code, {})
        assert capsys.readouterr().out.strip(), f"{page}: the block prints nothing\n{block}"


def test_what_is_run_elsewhere_is_run_there() -> None:
    for command, place in ELSEWHERE.items():
        assert f'"{command}"' in (ROOT / place).read_text("utf-8")
