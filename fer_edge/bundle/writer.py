"""Writing a bundle, so that a crash at any moment leaves the old one or the new one.

A complete folder is written beside the old one, and the two are swapped with two renames. Needs
neither torch nor onnx.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from fer_edge.bundle.bundle import COPY_AGAIN, UNREADABLE, Bundle, manifest_bytes_of, unlisted
from fer_edge.bundle.manifest import (
    MANIFEST,
    Artifact,
    Gate,
    Manifest,
    path_problem,
    plain_json,
)
from fer_edge.bundle.swap import new_folder, refuse_taken
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_file
from fer_edge.records import read_record, to_dict
from fer_edge.version import __version__

__all__ = ["BundleWriter"]


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
        """Remove a file, all files made from it, and their gates if they judge nothing else."""
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
        if artifact.precision and all(other.key != artifact.key for other in self.artifacts()):
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
            self._before = manifest_bytes_of(self.path)
            if self._before is not None:
                Manifest.from_bytes(self._before, str(path))
            return
        if manifest_bytes_of(self.path) != self._before:
            raise UsageError(
                f"another process changed {self.path} at the same time",
                fix="run the command again",
            )
        if self._before is not None:
            self._keepunlisted(self._stage, Manifest.from_bytes(self._before))

    def _copy_base(self, base: Bundle) -> None:
        for artifact in base.manifest.artifacts:
            staged = self._staged(artifact.path)
            fault = base.fault(artifact)
            if fault and fault.startswith(UNREADABLE):
                raise UsageError(
                    f"{base.file(artifact)}: {fault}", fix="let this user read the file"
                )
            if fault:
                raise IntegrityError(f"{base.file(artifact)}: {fault}", fix=COPY_AGAIN)
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

    def _keepunlisted(self, stage: Path, old: Manifest) -> None:
        for name in unlisted(self.path, old):
            if name in self._artifacts:
                continue
            kept = stage / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            # The old folder is removed, so a link is enough, and it saves copying a large plan.
            try:
                os.link(self.path / name, kept, follow_symlinks=False)
            except OSError:
                shutil.copy2(self.path / name, kept, follow_symlinks=False)
