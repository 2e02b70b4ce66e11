"""A bundle as one file: packing, unpacking, and files that are hostile or damaged."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_bundle import BundleMaker
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.packing import pack_bundle, unpack_bundle
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def packed(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return pack_bundle(tiny_bundle, tmp_path / "tiny.fer").path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where to unpack: a folder of its own, so that what is left behind shows."""
    folder = tmp_path / "there"
    folder.mkdir()
    return folder / "tiny"


def nothing_left(there: Path) -> bool:
    return list(there.parent.iterdir()) == []


def test_there_and_back(tiny_bundle: Bundle, packed: Path, there: Path) -> None:
    bundle = unpack_bundle(packed, there)
    assert files(there) == files(tiny_bundle.path)
    assert bundle.manifest == tiny_bundle.manifest
    assert list(there.parent.iterdir()) == [there]
    images, logits = bundle.golden()
    assert np.array_equal(logits, tiny_bundle.golden()[1])
    assert len(images) == 16


def test_equal_bundles_give_equal_bytes(tiny_bundle: Bundle, packed: Path, tmp_path: Path) -> None:
    for path in tiny_bundle.path.iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    again = pack_bundle(Bundle.open(tiny_bundle.path), tmp_path / "again.fer")
    assert again.path.read_bytes() == packed.read_bytes()
    assert again.size == packed.stat().st_size
    assert again.files == len(tiny_bundle.manifest.artifacts) + 1


def test_it_is_a_plain_tar(tiny_bundle: Bundle, packed: Path) -> None:
    with tarfile.open(packed, "r:") as archive:
        members = archive.getmembers()
        names = ["manifest.json", *(each.path for each in tiny_bundle.manifest.artifacts)]
        assert [member.name for member in members] == names
        assert all(member.isreg() and member.mode == 0o644 for member in members)
        assert all(member.mtime == member.uid == member.gid == 0 for member in members)


def test_what_the_manifest_does_not_list_is_left_out(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tiny_bundle.path / "engines").mkdir()
    (tiny_bundle.path / "engines" / "notes").write_bytes(b"plan")
    packed = pack_bundle(tiny_bundle, tmp_path / "tiny.fer")
    assert packed.left_out == ("engines/notes",)
    assert b"engines/notes" not in packed.path.read_bytes()


def test_files_in_folders(tiny_bundle: Bundle, tmp_path: Path, there: Path) -> None:
    long = "/".join(["deep" * 8] * 5) + "/notes.json"
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.add_bytes(b"{}", long, format="json")
    packed = pack_bundle(Bundle.open(tiny_bundle.path), tmp_path / "deep.fer")
    unpack_bundle(packed.path, there)
    assert (there / long).read_bytes() == b"{}"


def test_a_name_that_no_tar_holds(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.add_bytes(b"{}", "x" * 200, format="json")
    with pytest.raises(UsageError, match="does not fit"):
        pack_bundle(Bundle.open(tiny_bundle.path), tmp_path / "x.fer")
    assert not list(tmp_path.glob("*x.fer*"))


def test_a_file_changed_since_the_bundle_was_opened(tiny_bundle: Bundle, tmp_path: Path) -> None:
    graph = tiny_bundle.path / "model.fp32.onnx"
    content = graph.read_bytes()
    for changed in (content[:-1], content + b"x", content[:-1] + b"x"):
        graph.write_bytes(changed)
        with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx"):
            pack_bundle(tiny_bundle, tmp_path / "x.fer")
    assert not list(tmp_path.glob("*x*.fer*"))


def test_out_must_be_free(packed: Path, there: Path) -> None:
    there.mkdir()
    unpack_bundle(packed, there)  # an empty folder is free
    with pytest.raises(UsageError, match="exists already"):
        unpack_bundle(packed, there)
    (there / "engines").mkdir()
    (there / "engines" / "old.plan").write_bytes(b"plan")
    assert unpack_bundle(packed, there, replace=True).unlisted() == []
    (there / "manifest.json").unlink()
    for replace in (False, True):
        with pytest.raises(UsageError, match="not a bundle"):
            unpack_bundle(packed, there, replace=replace)


def test_a_failure_leaves_the_bundle_that_was_there(packed: Path, there: Path) -> None:
    before = files(unpack_bundle(packed, there).path)
    packed.write_bytes(packed.read_bytes()[:-20_000])
    with pytest.raises(IntegrityError):
        unpack_bundle(packed, there, replace=True)
    assert files(there) == before
    assert list(there.parent.iterdir()) == [there]


def test_no_such_file(tmp_path: Path) -> None:
    reasons = {tmp_path / "none.fer": "does not exist", tmp_path: "it is a folder"}
    for path, reason in reasons.items():
        with pytest.raises(UsageError, match=reason):
            unpack_bundle(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(10240), b"x" * 100_000])
def test_something_else(tmp_path: Path, there: Path, content: bytes) -> None:
    (tmp_path / "x.fer").write_bytes(content)
    with pytest.raises(IntegrityError, match="not a packed bundle"):
        unpack_bundle(tmp_path / "x.fer", there)
    assert nothing_left(there)


def test_every_cut_is_refused(packed: Path, there: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    cut = tmp_path / "cut.fer"
    sizes = {*range(0, len(content), 1021), *range(0, len(content), 1024), len(content) - 1}
    for size in sizes:
        cut.write_bytes(content[:size])
        with pytest.raises(IntegrityError):
            unpack_bundle(cut, there)
        assert nothing_left(there)


def test_every_flipped_byte_is_refused(packed: Path, there: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    random = np.random.default_rng(0)
    flipped = tmp_path / "flipped.fer"
    places = {*range(0, 512, 7), *random.integers(0, len(content), 150).tolist(), len(content) - 1}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        flipped.write_bytes(changed)
        with pytest.raises(IntegrityError):
            unpack_bundle(flipped, there)
    assert nothing_left(there)


def test_folders_made_on_the_way_go_too(packed: Path, there: Path) -> None:
    assert unpack_bundle(packed, there / "a" / "b").path == there / "a" / "b"
    packed.write_bytes(packed.read_bytes()[:2000])
    with pytest.raises(IntegrityError):
        unpack_bundle(packed, there / "c" / "d" / "e")
    assert list(there.iterdir()) == [there / "a"]


def test_something_after_the_end(packed: Path, there: Path) -> None:
    packed.write_bytes(packed.read_bytes() + bytes(512))
    with pytest.raises(IntegrityError, match="its end"):
        unpack_bundle(packed, there)


def rewrite(
    packed: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None], kind: int
) -> None:
    """Write the archive again with Python's tarfile, its members changed."""
    with tarfile.open(packed, "r:") as archive:
        members = [
            (member, archive.extractfile(member).read())  # type: ignore[union-attr]
            for member in archive.getmembers()
        ]
    change(members)
    with tarfile.open(packed, "w:", format=kind) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))


def special(name: str, type_: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type_, link
    return member, b""


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.DIRTYPE, "folder"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 3, None])
def test_special_members_are_refused(
    packed: Path, there: Path, type_: bytes, words: str, at: int | None
) -> None:
    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        place = len(members) if at is None else at
        members.insert(place, special("model.fp32.onnx", type_, "/etc/passwd"))

    rewrite(packed, change, tarfile.USTAR_FORMAT)
    with pytest.raises(IntegrityError, match=words):
        unpack_bundle(packed, there)
    assert nothing_left(there)


def test_a_member_that_stands_twice(packed: Path, there: Path) -> None:
    rewrite(packed, lambda members: members.append(members[2]), tarfile.USTAR_FORMAT)
    with pytest.raises(IntegrityError, match="twice"):
        unpack_bundle(packed, there)
    assert nothing_left(there)


def test_a_member_that_the_manifest_does_not_know(packed: Path, there: Path) -> None:
    extra = tarfile.TarInfo("extra.onnx")
    rewrite(packed, lambda members: members.insert(2, (extra, b"")), tarfile.USTAR_FORMAT)
    with pytest.raises(IntegrityError, match=r"'extra.onnx' is not in its manifest"):
        unpack_bundle(packed, there)


def test_members_in_another_order_or_with_other_bits(packed: Path, there: Path) -> None:
    content = packed.read_bytes()
    rewrite(packed, lambda members: members.reverse(), tarfile.USTAR_FORMAT)
    with pytest.raises(IntegrityError):
        unpack_bundle(packed, there)
    packed.write_bytes(content)

    def setuid(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        members[2][0].mode = 0o4755

    rewrite(packed, setuid, tarfile.USTAR_FORMAT)
    with pytest.raises(IntegrityError, match="header"):
        unpack_bundle(packed, there)


HOSTILE = st.one_of(
    st.sampled_from(
        [
            *("../x", "/etc/x", "a/../../x", "..", ".", "", "/", "a//b", "a/./b", "\\x", "C:x"),
            *("manifest.json/../../x", "model.fp32.onnx/x", "engines/../../../x", "\u202egnp"),
        ]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=120),
    st.lists(st.sampled_from(["..", ".", "a", "", "b\n"]), max_size=40).map("/".join),
)


@settings(max_examples=60, suppress_health_check=SHARED_FIXTURE)
@given(
    name=HOSTILE,
    at=st.integers(0, 6),
    renamed=st.booleans(),
    type_=st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, b"x", b"L", b"S"]),
    kind=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_hostile_members_touch_nothing(
    packed: Path, name: str, at: int, renamed: bool, type_: bytes, kind: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        evil = Path(folder) / "evil.fer"
        evil.write_bytes(packed.read_bytes())

        def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
            place = min(at, len(members) - 1)
            content = members[place][1] if renamed else b"evil"
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(content), type_, "/etc/passwd"
            members[place : place + renamed] = [(member, content)]

        try:
            rewrite(evil, change, kind)
        except ValueError:
            return  # a name that this format cannot hold
        inner = Path(folder) / "inner" / "deep"
        inner.mkdir(parents=True)
        with pytest.raises(FerEdgeError):
            unpack_bundle(evil, inner / "out")
        assert sorted(Path(folder).rglob("*")) == [evil, inner.parent, inner]


def test_a_manifest_that_claims_gigabytes(packed: Path, there: Path) -> None:
    header = tarfile.TarInfo("manifest.json")
    header.size = 8 * 2**30 - 1
    content = packed.read_bytes()
    packed.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + content[512:])
    with pytest.raises(IntegrityError, match="claims"):
        unpack_bundle(packed, there)


def test_a_crash_between_the_renames_is_undone(packed: Path, there: Path) -> None:
    unpack_bundle(packed, there)
    there.rename(there.with_name(".tiny.old"))
    with pytest.raises(UsageError, match="exists already"):
        unpack_bundle(packed, there)
    assert Bundle.open(there)


def test_a_bundle_of_a_newer_schema(
    bundle_maker: BundleMaker, tmp_path: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    import msgspec

    bundle = bundle_maker()
    newer = dataclasses.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, schema=99)
    )
    pack_bundle(newer, tmp_path / "newer.fer")
    with pytest.raises(UsageError, match="schema 99"):
        unpack_bundle(tmp_path / "newer.fer", there)
    assert nothing_left(there)
