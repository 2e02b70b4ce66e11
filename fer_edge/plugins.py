"""Plug-ins: models, detectors, backends and recipes from other installed packages.

A package declares them as entry points, so that nothing here has to change::

    [project.entry-points."fer_edge.models"]
    own-net = "own_network:OWN_NET"             # a fer_edge.ModelEntry
    [project.entry-points."fer_edge.detectors"]
    own-finder = "own_network:OWN_FINDER"       # a fer_edge.DetectorRow
    [project.entry-points."fer_edge.backends"]
    own-runtime = "own_network:OwnBackend"      # a subclass of fer_edge.Backend
    [project.entry-points."fer_edge.recipes"]
    own-network = "own_network.recipes"         # a package folder with TOML files

The names of what comes with fer-edge are looked up first and without this module's search. So an
installed package can neither replace them nor make them slower. The code of a package is imported
when one of its names is asked for or listed, not before.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from fer_edge.errors import FerEdgeError, UnavailableError, UsageError, of_signal_handler
from fer_edge.progress import logger

__all__ = [
    "KINDS",
    "Kind",
    "PlugIn",
    "blamed_on",
    "culprit",
    "not_installed",
    "plug_in",
    "plug_in_names",
    "plug_ins",
    "recipe_files",
    "refusals",
]

Kind = Literal["model", "detector", "backend", "recipe"]
"""What a plug-in adds."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All values of :data:`Kind`."""

_T = TypeVar("_T")
_GROUP = "fer_edge."


@dataclass(frozen=True, slots=True)
class PlugIn:
    """One entry point: ``place`` is ``module:attribute``, of recipes the name of a package."""

    kind: Kind
    name: str
    package: str
    version: str
    place: str

    @property
    def title(self) -> str:
        """What it is and where it comes from, for a message."""
        return f"{self.kind} {self.name!r} of the package {self.package} {self.version}"

    @property
    def module(self) -> str:
        """The module, or the package, that its code is in."""
        return self.place.partition(":")[0].partition(".")[0]

    def load(self, wanted: type[_T]) -> _T:
        """Import and return the object. :class:`UnavailableError` unless it is a ``wanted``."""
        with blamed_on(self):
            module, _, names = self.place.partition(":")
            found: Any = import_module(module)
            for name in filter(None, names.split(".")):
                found = getattr(found, name)
        if not isinstance(found, wanted):
            raise self.broken(f"{self.place} is of type {type(found).__name__}")
        return found

    def broken(self, why: object) -> UnavailableError:
        """Return the error for a plug-in that does not work; ``why`` is an error or a reason."""
        reason = f"{type(why).__name__}: {why}" if isinstance(why, BaseException) else why
        return UnavailableError(
            f"the {self.title} does not work: {reason}",
            fix=f"pip install --upgrade {self.package}, or pip uninstall {self.package}",
        )

    def failed(self, error: BaseException) -> UnavailableError:
        """Return the error for what its code raised; ``-vv`` shows where."""
        logger.debug("the %s raised:", self.title, exc_info=error)
        return self.broken(error)


@contextmanager
def blamed_on(plug: PlugIn | None) -> Iterator[None]:
    """Turn what the code of a plug-in raises into one line that names its package.

    Errors of fer-edge stay as they are; None changes nothing.
    """
    try:
        yield
    except FerEdgeError:
        raise
    except (Exception, SystemExit) as error:
        if plug is None or of_signal_handler(error):
            raise
        raise plug.failed(error) from error


def culprit(error: BaseException) -> PlugIn | None:
    """Return the plug-in whose code raised ``error``, or None.

    For what runs inside a library, where no :func:`blamed_on` can be, such as a network's layers.
    """
    modules = set()
    trace = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        modules.add(name.partition(".")[0])
        trace = trace.tb_next
    for kind in KINDS[:-1]:  # recipes have no code
        for plug in plug_ins(kind):
            if plug.module in modules - {"fer_edge", "builtins"}:
                return plug
    return None


def plug_ins(kind: Kind) -> list[PlugIn]:
    """Return all plug-ins of a kind by name; of the same name, by package. Imports none."""
    from importlib import metadata  # it takes longer to import than all of fer_edge

    found: dict[tuple[str, str], PlugIn] = {}
    for distribution in metadata.distributions():
        try:
            # Reading all metadata would take ten times as long.
            if _GROUP not in (distribution.read_text("entry_points.txt") or ""):
                continue
            package, version = distribution.metadata["Name"], distribution.version
            points = list(distribution.entry_points)
        except Exception as error:  # a package that is half removed, or not ours, may be anything
            if of_signal_handler(error):
                raise
            continue
        for point in points:
            if point.group == f"{_GROUP}{kind}s":
                plug = PlugIn(kind, point.name, str(package), str(version), point.value)
                # The first on the path is the one that Python imports.
                found.setdefault((point.name, _normal(plug.package)), plug)
    return [found[key] for key in sorted(found)]


def plug_in_names(kind: Kind) -> list[str]:
    """Return the names that :func:`plug_in` knows; of recipes, those of their files."""
    return list(_by_name(kind))


def plug_in(kind: Kind, name: str, package: str = "") -> PlugIn | None:
    """Return the plug-in ``name``, not loaded, or None; ``package`` takes that of one package.

    :class:`UsageError` if two packages have one of this name.
    """
    having = [
        plug
        for plug in _by_name(kind).get(name, [])
        if not package or _normal(plug.package) == _normal(package)
    ]
    if len(having) > 1:
        first, second = having[0].package, having[1].package
        raise UsageError(
            f"two packages have a {kind} {name!r}: {first} and {second}",
            fix=f"pip uninstall {first}, or pip uninstall {second}",
        )
    return having[0] if having else None


def refusals(kind: Kind, own: Container[str]) -> list[str]:
    """Return a line for each name that more than one package has; ``own`` are those of fer-edge."""
    lines = []
    for name, having in _by_name(kind).items():
        packages = " and ".join(plug.package for plug in having)
        if name in own:
            lines.append(f"the {kind} {name!r} of {packages} is not used: fer-edge has this name")
        elif len(having) > 1:
            lines.append(f"the {kind} {name!r} cannot be used: {packages} have this name")
    return lines


def _by_name(kind: Kind) -> dict[str, list[PlugIn]]:
    found: dict[str, list[PlugIn]] = {}
    for plug in plug_ins(kind):
        names = [plug.name]
        if kind == "recipe":
            names = [path.stem for path in recipe_files(plug)]
        for name in names:
            found.setdefault(name, []).append(plug)
    return dict(sorted(found.items()))


def recipe_files(plug: PlugIn) -> list[Path]:
    """Return the TOML files of a package folder, by name; none if there is no such folder.

    The package is found, not imported.
    """
    top, *folders = plug.place.partition(":")[0].split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [path for place in places for path in Path(place, *folders).glob("*.toml")]
    return sorted(files, key=lambda path: path.stem)


def not_installed(kind: Kind, name: str, package: str) -> UnavailableError:
    """Return the error for a file that names the plug-in of a package that is not there."""
    return UnavailableError(
        f"the {kind} {name!r} is a plug-in of the package {package}, which is not installed",
        fix=f"pip install {package}",
    )


def _normal(package: str) -> str:
    """Return the name by which pip compares packages."""
    return re.sub(r"[-_.]+", "-", package).lower()
