"""A bundle: one folder with a network's graphs, its measured results, and a manifest of digests.

:class:`Bundle` reads it and compares every file with its digest; :mod:`fer_edge.bundle.writer`
writes it. This module needs neither torch nor onnx.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from fer_edge.bundle.golden import LARGEST_GOLDEN, golden_from_bytes
from fer_edge.bundle.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    Artifact,
    Gate,
    Manifest,
)
from fer_edge.bundle.swap import settled
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import inside, read_bounded, sha256_bytes, sha256_file
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import is_packaged, packaged_name

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "COPY_AGAIN",
    "GOLDEN",
    "MANIFEST",
    "UNREADABLE",
    "Artifact",
    "Bundle",
    "Manifest",
    "manifest_bytes_of",
    "unlisted",
]

GOLDEN = "golden.npz"
"""About 32 synthetic ``images`` u8[G,1,48,48] and the FP32 reference's ``logits`` f32[G,C]."""

COPY_AGAIN = "copy the bundle again from where it was made, or build it again: fer-edge build"
"""What to do about a bundle with a changed file."""

UNREADABLE = "it cannot be read"
"""The start of :meth:`Bundle.fault` where the system does not let this user read a file."""

_MAKE_ONE = "make a bundle from the newest training run: fer-edge build --precision int8"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A folder at ``path`` with a ``manifest``; :meth:`open` reads one.

    Its files never change: a writer replaces the whole folder.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> Bundle:
        """Read a bundle and compare every file with its digest, unless ``check`` is false.

        :class:`UsageError` if ``path`` is not a bundle; :class:`IntegrityError`, with the file's
        name, if a file is missing or does not match its digest.
        """
        path = Path(path)
        while True:
            manifest = Manifest.from_bytes(_manifest_bytes(path), str(path / MANIFEST))
            bundle = cls(path, manifest)
            if not check:
                return bundle
            try:
                bundle.check()
            except IntegrityError:
                # If a writer swapped the folder between our two reads, read again.
                if _manifest_bytes(path) == manifest.to_bytes():
                    raise
                continue
            return bundle

    def check(self) -> None:
        """Compare every file with its digest; :class:`IntegrityError` names the first bad one."""
        for artifact in self.manifest.artifacts:
            fault = self.fault(artifact)
            if fault and fault.startswith(UNREADABLE):
                # Not damage: the bytes may well be right.
                raise UsageError(
                    f"{self.path / artifact.path}: {fault}", fix="let this user read the file"
                )
            if fault:
                raise IntegrityError(f"{self.path / artifact.path}: {fault}", fix=COPY_AGAIN)

    def fault(self, artifact: Artifact) -> str | None:
        """Return what is wrong with the file of ``artifact``, or None.

        It can be missing, outside of the bundle, or have another size or digest.
        """
        path = self.path / artifact.path
        if not inside(path, self.path):
            return "a link leads out of the bundle"
        try:
            size = path.stat().st_size
            if size != artifact.size:
                return f"it has {size:,} bytes, the manifest says {artifact.size:,}"
            digest = sha256_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return "the file is missing"
        except OSError as error:
            return f"{UNREADABLE}: {error.strerror or error}"
        if digest != artifact.sha256:
            return f"SHA-256 is {digest[:12]}..., the manifest says {artifact.sha256[:12]}..."
        return None

    def find(
        self,
        *,
        format: str | None = None,
        precision: str | None = None,
        target: str | None = None,
        path: str | None = None,
        variant: str | None = None,
    ) -> Artifact | None:
        """Return the first artifact that matches all that is given, or None.

        ``format`` is onnx, tflite, plan or safetensors, ``precision`` fp32, fp16 or int8,
        ``target`` what it was built for, ``path`` its name in the bundle, ``variant`` which of
        several it is.
        """
        for artifact in self.manifest.artifacts:
            if (
                (format is None or artifact.format == format)
                and (precision is None or artifact.precision == precision)
                and (target is None or artifact.target == target)
                and (path is None or artifact.path == path)
                and (variant is None or artifact.variant == variant)
            ):
                return artifact
        return None

    def artifact(
        self,
        *,
        format: str | None = None,
        precision: str | None = None,
        target: str | None = None,
        path: str | None = None,
    ) -> Artifact:
        """Return what :meth:`find` does for ``format``, ``precision``, ``target`` and ``path``.

        :class:`UsageError` that lists all files if nothing matches.
        """
        match = self.find(format=format, precision=precision, target=target, path=path)
        if match:
            return match
        wanted = path or " ".join(word for word in (precision, format, target) if word)
        files = ", ".join(artifact.path for artifact in self.manifest.artifacts) or "nothing"
        raise UsageError(
            f"the bundle {self.path} has no {wanted}; it has: {files}",
            fix=self.build_command(precision or "", target or ""),
        )

    def graph(self, precision: str, placement: str) -> Artifact | None:
        """Return the ONNX graph of ``precision``; an INT8 graph must have this ``placement``.

        Of several variants it is the first of :meth:`graphs`.
        """
        return next(iter(self.graphs(precision, placement)), None)

    def graphs(self, precision: str, placement: str) -> tuple[Artifact, ...]:
        """Return all ONNX graphs of ``precision``; the one without the name of a variant is first.

        INT8 graphs must have this ``placement``.
        """
        target = placement if precision == "int8" else ""
        found = [
            artifact
            for artifact in self.manifest.artifacts
            if (artifact.format, artifact.precision, artifact.target) == ("onnx", precision, target)
        ]
        return tuple(sorted(found, key=lambda artifact: artifact.variant != ""))

    def gate_of(self, artifact: Artifact) -> Gate | None:
        """Return the gate that judged ``artifact``, or None."""
        return next((gate for gate in self.manifest.gates if gate.key == artifact.key), None)

    def build_command(self, precision: str = "", target: str = "") -> str:
        """Return the command that adds an engine to this bundle, or to a copy of the packaged one.

        ``precision`` and ``target`` are its options; "" leaves one out.
        A sentence, not a command, if the bundle has neither checkpoint nor FP32 graph.
        """
        if not (self.find(format="safetensors") or self.graph("fp32", "")):
            return "build from the run that this bundle was made from"
        own = quote(str(self.path))
        if is_packaged(self.path):
            own = f"{packaged_name(self.path)} -o {self.path.name}"
        command = f"fer-edge build {own}"
        command += f" --precision {precision}" if precision else ""
        return command + (f" --target {target}" if target else "")

    def file(self, artifact: Artifact) -> Path:
        """Return the path of an artifact."""
        return self.path / artifact.path

    def read(self, artifact: Artifact) -> bytes:
        """Return the bytes of an artifact, compared with their digest; IntegrityError if not equal.

        These bytes are what was checked, also if the file changes afterwards.
        """
        path = self.file(artifact)
        if not inside(path, self.path):
            raise IntegrityError(f"{path}: a link leads out of the bundle", fix=COPY_AGAIN)
        content = read_bounded(path, artifact.size, fix=COPY_AGAIN)
        if sha256_bytes(content) != artifact.sha256:
            raise IntegrityError(f"{path} does not match its digest", fix=COPY_AGAIN)
        return content

    def parent(self, artifact: Artifact) -> Artifact | None:
        """Return the file that ``artifact`` was made from, if it is in the bundle."""
        for candidate in self.manifest.artifacts:
            if candidate.sha256 == artifact.parent_sha256 and candidate is not artifact:
                return candidate
        return None

    def unlisted(self) -> list[str]:
        """Return the files in the folder that the manifest does not list."""
        return unlisted(self.path, self.manifest)

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the self-test: ``images`` u8[G,1,48,48] and reference ``logits`` f32[G,C]."""
        artifact = self.artifact(path=GOLDEN)
        where = str(self.file(artifact))
        if artifact.size > LARGEST_GOLDEN:
            raise IntegrityError(
                f"{where} is not a golden self-test: it has {artifact.size:,} bytes"
            )
        return golden_from_bytes(self.read(artifact), len(self.labels), where)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.manifest.labels

    @property
    def threshold(self) -> float | None:
        """The abstain threshold of the card, as a fraction of 1; None if it has none."""
        confidence = self.manifest.card.confidence
        return confidence.abstain.threshold if confidence and confidence.abstain else None

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels become the input of graphs that take float32."""
        pixels = self.manifest.preprocessing
        return Preprocessing(mean=pixels.mean, std=pixels.std)


def manifest_bytes_of(folder: Path) -> bytes | None:
    """Return the bytes of a folder's manifest, None if there is none.

    UsageError if it cannot be read, IntegrityError for a link that leads out of the folder.
    """
    path = folder / MANIFEST
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not inside(path, folder):
        raise IntegrityError(f"{path}: a link leads out of the bundle", fix=COPY_AGAIN)
    return read_bounded(path, LARGEST_MANIFEST, UsageError)


def _manifest_bytes(path: Path) -> bytes:
    with suppress(UsageError):
        content = manifest_bytes_of(path)
        if content is not None:
            return content
    # A writer may be between its two renames, or may have died there: read again under the lock.
    with settled(Path(os.path.realpath(path))):
        content = manifest_bytes_of(path)
        if content is not None:
            return content
    if not path.exists():
        problem = f"the bundle {path} does not exist"
    elif not path.is_dir():
        problem = f"{path} is a file: a bundle is a folder with a {MANIFEST}"
    else:
        problem = f"{path} is not a bundle: it has no {MANIFEST}"
    raise UsageError(problem, fix=_MAKE_ONE)


def unlisted(path: Path, manifest: Manifest) -> list[str]:
    """Return the files of the folder ``path`` that its manifest does not list, by name."""
    listed = {MANIFEST, *(artifact.path for artifact in manifest.artifacts)}
    found = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            relative = Path(folder, name).relative_to(path).as_posix()
            if relative not in listed:
                found.append(relative)
    return found
