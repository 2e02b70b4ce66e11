"""A bundle: one folder with a network's graphs, its measured results, and a manifest of digests.

:class:`Bundle` reads it and compares every file with its digest. :class:`BundleWriter` writes a
complete folder beside the old one and swaps the two with two renames, so that a crash at any moment
leaves the old bundle or the new one. This module needs neither torch nor onnx.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fer_edge.bundle.golden import LARGEST_GOLDEN, golden_from_bytes
from fer_edge.bundle.manifest import (
    LARGEST_MANIFEST,
    MANIFEST,
    Artifact,
    Gate,
    Manifest,
    path_problem,
    plain_json,
)
from fer_edge.bundle.swap import new_folder, refuse_taken, settled
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import inside, read_bounded, sha256_bytes, sha256_file
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import is_packaged, packaged_name
from fer_edge.records import read_record, to_dict
from fer_edge.version import __version__

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GOLDEN", "MANIFEST", "Artifact", "Bundle", "BundleWriter", "Manifest"]

GOLDEN = "golden.npz"
"""About 32 synthetic ``images`` u8[G,1,48,48] and the FP32 reference's ``logits`` f32[G,C]."""

_COPY_AGAIN = "copy the bundle again from where it was made, or build it again: fer-edge build"
_UNREADABLE = "it cannot be read"
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
            if fault and fault.startswith(_UNREADABLE):
                # Not damage: the bytes may well be right.
                raise UsageError(
                    f"{self.path / artifact.path}: {fault}", fix="let this user read the file"
                )
            if fault:
                raise IntegrityError(f"{self.path / artifact.path}: {fault}", fix=_COPY_AGAIN)

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
            return f"{_UNREADABLE}: {error.strerror or error}"
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
            raise IntegrityError(f"{path}: a link leads out of the bundle", fix=_COPY_AGAIN)
        content = read_bounded(path, artifact.size, fix=_COPY_AGAIN)
        if sha256_bytes(content) != artifact.sha256:
            raise IntegrityError(f"{path} does not match its digest", fix=_COPY_AGAIN)
        return content

    def parent(self, artifact: Artifact) -> Artifact | None:
        """Return the file that ``artifact`` was made from, if it is in the bundle."""
        for candidate in self.manifest.artifacts:
            if candidate.sha256 == artifact.parent_sha256 and candidate is not artifact:
                return candidate
        return None

    def unlisted(self) -> list[str]:
        """Return the files in the folder that the manifest does not list."""
        return _unlisted(self.path, self.manifest)

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


class BundleWriter:
    """Writes a bundle, or a changed copy of ``base``; the folder appears at a clean exit.

    ::

        with BundleWriter("faces", base=None) as writer:
            fp32 = writer.add_file(onnx, "model.fp32.onnx", format="onnx", precision="fp32")
            writer.set(name="faces", model={...})

    If a file is replaced by a different one, all files made from it are removed (their names are in
    ``dropped``). Files in an old folder that its manifest does not list are kept. If two writers
    write one bundle, the second to finish gets a :class:`UsageError`; the first one's result stays.
    """

    def __init__(self, path: str | Path, base: Bundle | None = None) -> None:
        # Links are resolved: their destination is replaced, not the link.
        self.path = Path(path).resolve()
        self.dropped: list[str] = []
        self._base = base
        self._artifacts: dict[str, Artifact] = {}
        self._fields: dict[str, Any] = {"name": self.path.name}
        self._gates: list[Gate] = []
        self._stage: Path | None = None
        self._before: bytes | None = None
        self._folder = ExitStack()

    def __enter__(self) -> BundleWriter:
        with ExitStack() as stack:
            self._stage = stack.enter_context(new_folder(self.path, self._check))
            if self._base:
                self._copy_base(self._base)
            self._folder = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self._folder.__exit__(kind, error, trace)
                return
            with self._folder:
                self._write_manifest()
        finally:
            self._stage = None

    def artifacts(self) -> tuple[Artifact, ...]:
        """Return the artifacts that are in the new bundle so far."""
        return tuple(self._artifacts.values())

    def add_file(
        self,
        source: str | Path,
        name: str,
        *,
        format: str,
        precision: str = "",
        target: str = "",
        parent: Artifact | str | None = None,
        meta: dict[str, Any] | None = None,
        variant: str = "",
    ) -> Artifact:
        """Copy ``source`` as ``name``; ``parent``: an artifact, a name in here, or a SHA-256."""
        staged = self._staged(name)
        shutil.copyfile(source, staged)
        return self._list(name, format, precision, target, parent, meta, variant)

    def add_bytes(
        self,
        content: bytes,
        name: str,
        *,
        format: str,
        precision: str = "",
        target: str = "",
        parent: Artifact | str | None = None,
        meta: dict[str, Any] | None = None,
        variant: str = "",
    ) -> Artifact:
        """Write ``content`` as the file ``name``; see :meth:`add_file`."""
        self._staged(name).write_bytes(content)
        return self._list(name, format, precision, target, parent, meta, variant)

    def remove(self, name: str) -> None:
        """Remove a file, all files made from it, and their gates."""
        artifact = self._artifacts.get(name)
        if artifact is None:
            raise UsageError(f"{name} is not in the bundle {self.path}")
        self._drop(artifact)

    def set(self, **fields: Any) -> None:
        """Set fields of the :class:`Manifest`, except artifacts, gates, dates and versions."""
        ours = {"artifacts", "gates", "created", "fer_edge", "schema"}
        unknown = set(fields) - (set(Manifest.__struct_fields__) - ours)
        if unknown:
            raise TypeError(f"a manifest has no field {sorted(unknown)[0]!r} to set")
        self._fields |= {name: plain_json(value) for name, value in fields.items()}

    def add_gate(self, gate: Gate | Mapping[str, Any]) -> None:
        """Record a gate's result; it replaces the one of the same file."""
        added = read_record(Gate, plain_json(gate), "the gate")
        self._gates = [*(old for old in self._gates if old.key != added.key), added]

    def _staged(self, name: str) -> Path:
        if self._stage is None:
            raise RuntimeError("a BundleWriter is used inside its `with` block")
        problem = path_problem(name)
        if problem:
            raise UsageError(f"{name!r} {problem}: it cannot be a bundle's file")
        staged = self._stage / name
        staged.parent.mkdir(parents=True, exist_ok=True)
        return staged

    def _list(
        self,
        name: str,
        format: str,
        precision: str,
        target: str,
        parent: Artifact | str | None,
        meta: dict[str, Any] | None,
        variant: str,
    ) -> Artifact:
        if isinstance(parent, str) and parent in self._artifacts:
            parent = self._artifacts[parent]
        staged = self._staged(name)
        content = {
            "path": name,
            "format": format,
            "precision": precision,
            "target": target,
            "sha256": sha256_file(staged),
            "size": staged.stat().st_size,
            "parent_sha256": parent.sha256 if isinstance(parent, Artifact) else parent,
            "meta": plain_json(meta or {}),
            "variant": variant,
        }
        artifact = read_record(Artifact, content, name)
        replaced = self._artifacts.get(name)
        self._artifacts[name] = artifact
        if replaced:
            self._drop_children(replaced)
        return artifact

    def _drop(self, artifact: Artifact) -> None:
        del self._artifacts[artifact.path]
        (self._staged(artifact.path)).unlink()
        self.dropped.append(artifact.path)
        if artifact.precision:
            self._gates = [gate for gate in self._gates if gate.key != artifact.key]
        self._drop_children(artifact)

    def _drop_children(self, artifact: Artifact) -> None:
        if any(other.sha256 == artifact.sha256 for other in self._artifacts.values()):
            return  # the same bytes are still there under another name
        for child in self.artifacts():
            if child.parent_sha256 == artifact.sha256 and child.path in self._artifacts:
                self._drop(child)

    def _check(self) -> None:
        """At the start, refuse to replace anything but a bundle; at the end, a changed bundle."""
        path = self.path / MANIFEST
        if self._stage is None:
            refuse_taken(self.path, MANIFEST, "a bundle", replace=True)
            self._before = _manifest_bytes_of(self.path)
            if self._before is not None:
                Manifest.from_bytes(self._before, str(path))
            return
        if _manifest_bytes_of(self.path) != self._before:
            raise UsageError(
                f"another process changed {self.path} at the same time",
                fix="run the command again",
            )
        if self._before is not None:
            self._keep_unlisted(self._stage, Manifest.from_bytes(self._before))

    def _copy_base(self, base: Bundle) -> None:
        for artifact in base.manifest.artifacts:
            staged = self._staged(artifact.path)
            fault = base.fault(artifact)
            if fault and fault.startswith(_UNREADABLE):
                raise UsageError(
                    f"{base.file(artifact)}: {fault}", fix="let this user read the file"
                )
            if fault:
                raise IntegrityError(f"{base.file(artifact)}: {fault}", fix=_COPY_AGAIN)
            shutil.copyfile(base.file(artifact), staged)
            if sha256_file(staged) != artifact.sha256:
                raise IntegrityError(f"{base.file(artifact)} does not match its digest")
            self._artifacts[artifact.path] = artifact
        fields = base.manifest.to_dict()
        for name in ("schema", "created", "fer_edge", "artifacts", "gates"):
            del fields[name]
        self._fields = fields
        self._gates = list(base.manifest.gates)

    def _write_manifest(self) -> None:
        assert self._stage is not None
        # The reader checks it first: we must not write what the reader would refuse.
        manifest = Manifest.from_dict(
            {
                **self._fields,
                "artifacts": [to_dict(artifact) for artifact in self.artifacts()],
                "gates": [to_dict(gate) for gate in self._gates],
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "fer_edge": __version__,
            }
        )
        content = manifest.to_bytes()
        Manifest.from_bytes(content)
        (self._stage / MANIFEST).write_bytes(content)

    def _keep_unlisted(self, stage: Path, old: Manifest) -> None:
        for name in _unlisted(self.path, old):
            if name in self._artifacts:
                continue
            kept = stage / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            # The old folder is removed, so a link is enough, and it saves copying a large plan.
            try:
                os.link(self.path / name, kept, follow_symlinks=False)
            except OSError:
                shutil.copy2(self.path / name, kept, follow_symlinks=False)


def _manifest_bytes_of(folder: Path) -> bytes | None:
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
        raise IntegrityError(f"{path}: a link leads out of the bundle", fix=_COPY_AGAIN)
    return read_bounded(path, LARGEST_MANIFEST, UsageError)


def _manifest_bytes(path: Path) -> bytes:
    with suppress(UsageError):
        content = _manifest_bytes_of(path)
        if content is not None:
            return content
    # A writer may be between its two renames, or may have died there: read again under the lock.
    with settled(Path(os.path.realpath(path))):
        content = _manifest_bytes_of(path)
        if content is not None:
            return content
    if not path.exists():
        problem = f"the bundle {path} does not exist"
    elif not path.is_dir():
        problem = f"{path} is a file: a bundle is a folder with a {MANIFEST}"
    else:
        problem = f"{path} is not a bundle: it has no {MANIFEST}"
    raise UsageError(problem, fix=_MAKE_ONE)


def _unlisted(path: Path, manifest: Manifest) -> list[str]:
    listed = {MANIFEST, *(artifact.path for artifact in manifest.artifacts)}
    unlisted = []
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            relative = Path(folder, name).relative_to(path).as_posix()
            if relative not in listed:
                unlisted.append(relative)
    return unlisted
