"""What MkDocs calls: pages that are made, not written, and the pictures and tables inside pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import api_pages
import blocks
import borrowed
import cli_pages
import diary
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pictures import PICTURES
from tables import TABLES

ROOT = Path(__file__).resolve().parents[2]

SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme loads for the search on a disk; docs/assets/file-search.js stands in for it."""

_made: dict[str, tuple[str, str]] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages into the navigation, behind those that are written."""
    cli, api, log = cli_pages.pages(), api_pages.pages(), diary.pages()
    lent = borrowed.pages()
    _made.clear()
    _made.update(cli | api | log | lent)

    def listed(pages: dict[str, tuple[str, str]]) -> list[Any]:
        first, *rest = pages
        return [first, *({pages[path][0]: path} for path in rest)]

    nav: list[Any] = list(config.nav or [])
    sections = {name: inside for entry in nav for name, inside in entry.items()}
    reference, benchmarks = sections["Reference"], sections["Benchmarks"]
    reference[1:1] = [{"The command line": listed(cli)}, {"Python API": listed(api)}]
    reference.append({lent["reference/calibration.md"][0]: "reference/calibration.md"})
    for page in ("benchmarks/frontier.md", "benchmarks/reproduction.md", "benchmarks/scripts.md"):
        benchmarks.append({lent[page][0]: page})
    benchmarks.append({"The lab diary": listed(log)})
    place = next(k for k, entry in enumerate(nav) if "Reference" in entry)
    devices = ["devices/index.md", "devices/jetson.md", "devices/cpp.md"]
    nav.insert(place, {"Devices": [{lent[page][0]: page} for page in devices]})
    nav.append(
        {
            "Project": [
                {lent[p][0]: p}
                for p in ("examples.md", "changelog.md", "contributing.md", "security.md")
            ]
        }
    )
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages and the pictures that lie elsewhere."""
    for path, (_, text) in _made.items():
        files.append(File.generated(config, path, content=text))
    for source, path in borrowed.PICTURES.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the tables, ``<!-- table: NAME -->``, and narrow the commands."""
    filled = re.sub(r"(?m)^<!-- table: ([\w-]+) -->$", lambda match: TABLES[match[1]](), markdown)
    return blocks.narrowed(filled)


def on_page_content(html: str, **_: Any) -> str:
    """Draw the pictures into the page: ``<!-- picture: NAME -->``."""
    return re.sub(r"<!-- picture: ([\w-]+) -->", lambda match: str(PICTURES[match[1]]()), html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Let the page load nothing from elsewhere."""
    ours = File("assets/file-search.js", "", "", use_directory_urls=False)
    return output.replace(SHIM, ours.url_relative_to(page.file))


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same in the pages that are no documents (404)."""
    return output_content.replace(SHIM, "assets/file-search.js")


def on_post_build(config: MkDocsConfig) -> None:
    """Take the addresses of libraries out of the theme that no page here needs."""
    for script in Path(config.site_dir).glob("assets/javascripts/bundle.*.js"):
        text = script.read_text(encoding="utf-8")
        script.write_text(re.sub(r"https://unpkg\.com/[\w@./-]+", "data:,", text), encoding="utf-8")
