"""The cache: it saves the decoding, and it never hands out anything but the source's rows."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from fer_edge.data import cache, fer2013, load
from fer_edge.errors import DataError
from fer_edge.paths import cache_dir
from fer_edge.progress import Reporter


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sources that were decoded, in order."""
    calls: list[Path] = []

    def counting(reader):
        def read(path: Path, **options):
            calls.append(path)
            return reader(path, **options)

        return read

    for name in ("read_zip", "read_folder", "read_csv"):
        monkeypatch.setattr(fer2013, name, counting(getattr(fer2013, name)))
    return calls


@pytest.fixture(params=["zip", "folder"])
def source(request, forms, tmp_path, own_cache) -> Path:
    return getattr(forms, request.param)(tmp_path / "data.zip", forms.files(forms.faces()))


def test_the_second_load_decodes_nothing(source, decoded) -> None:
    first, second = load(source), load(source)
    assert len(decoded) == 1
    assert (first.sha256, first.ids, first.notes) == (second.sha256, second.ids, second.notes)


def test_a_copy_elsewhere_has_the_same_entry_under_its_own_name(
    forms, tmp_path, own_cache, decoded
):
    path = forms.zip(tmp_path / "data.zip", forms.files(forms.faces()))
    load(path)
    other = shutil.copy(path, tmp_path / "other.zip")
    assert load(other).source == "other.zip"
    assert len(decoded) == 1


def test_without_the_cache_nothing_is_written(source, decoded, own_cache) -> None:
    load(source, cache=False)
    load(source, cache=False)
    assert len(decoded) == 2
    assert not own_cache.exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_a_damaged_entry_is_rebuilt_and_noted(source, decoded, own_cache, damage: str) -> None:
    good = load(source)
    (entry,) = own_cache.glob("data/*.npz")
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes({"flip": content, "cut": content[:999], "empty": b"", "text": b"no"}[damage])
    again = load(source)
    assert len(decoded) == 2
    assert again.sha256 == good.sha256
    assert any("damaged cache entry was rebuilt" in note for note in again.notes)
    assert load(source).notes == good.notes  # the note is not kept with the entry
    assert len(decoded) == 2


def test_a_change_of_the_same_size_and_time_is_noticed(
    forms, tmp_path, own_cache, decoded, monkeypatch
):
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)  # index even files that were just written
    path = forms.zip(tmp_path / "data.zip", forms.files(forms.faces(seed=1)))
    before = path.stat()
    first = load(path)
    content = path.read_bytes()
    changed = forms.zip(tmp_path / "new.zip", forms.files(forms.faces(seed=2))).read_bytes()
    # Same length, by bytes after the end that a zip may carry as its comment.
    size = max(len(content), len(changed))
    path.write_bytes(changed + bytes(size - len(changed)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    second = load(path)
    assert second.sha256 != first.sha256
    assert len(decoded) == 2


def test_a_changed_file_in_a_folder_is_noticed(forms, tmp_path, own_cache, decoded, monkeypatch):
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)
    path = forms.folder(tmp_path / "x", forms.files(forms.faces()))
    first = load(path)
    one = path / "train/sad/Training_0.png"
    one.write_bytes(forms.picture(forms.faces(seed=9).images[0]))
    assert load(path).sha256 != first.sha256
    (path / "train/sad/Training_1.png").rename(path / "train/sad/Training_3.png")
    assert "sad/Training_3" in load(path).ids
    assert len(decoded) == 3


def test_a_fresh_file_is_hashed_not_indexed(forms, tmp_path, own_cache) -> None:
    path = forms.zip(tmp_path / "x.zip", forms.files(forms.faces()))
    load(path)
    assert not list(own_cache.glob("data/index/*"))


def test_a_settled_file_is_not_hashed_again(source, monkeypatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)
    first = load(source)
    monkeypatch.setattr(cache, "source_digest", lambda path: pytest.fail("it was hashed again"))
    assert load(source).sha256 == first.sha256


def test_a_broken_index_is_not_believed(source, monkeypatch, own_cache) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)
    first = load(source)
    (index,) = own_cache.glob("data/index/*")
    for content in ("", "{}", "[]", '{"sha256": 3}', '{"sha256": "abc"}'):
        index.write_text(content)
        assert load(source).sha256 == first.sha256


def test_a_source_that_changes_while_it_is_read_is_refused(source, own_cache, forms) -> None:
    class Meddle(Reporter):
        def progress(self, stage: str, done: int, total: int) -> None:
            target = source if source.is_file() else source / "train/sad/Training_0.png"
            os.utime(target, ns=(0, time.time_ns()))

    with pytest.raises(DataError, match="changed while it was read"):
        load(source, reporter=Meddle())
    assert not list(own_cache.glob("data/*.npz"))


def test_a_cache_that_cannot_be_written_is_noted_and_no_error(forms, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    path = forms.zip(tmp_path / "x.zip", forms.files(forms.faces()))
    got = load(path)
    assert got.sha256 == forms.faces().sha256
    assert any("cannot be written" in note for note in got.notes)


def test_where_the_cache_is(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("FER_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "fer-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "fer-edge"
