import shutil
import stat
import zipfile

import pytest

from tasador.core.errors import BundleError, StorageError
from tasador.registry.bundle_stores import ArchiveLimits, pack, unpack
from tasador.registry.model_bundle import load_bundle


@pytest.fixture
def archive(written_bundle, tmp_path):
    pack(written_bundle, tmp_path / "houses.zip")
    return tmp_path / "houses.zip"


def rewritten(archive, target, *extra, skip=(), method=zipfile.ZIP_STORED):
    """Copy an archive, leaving out `skip` and adding `extra` (entry, content)."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w", method) as new:
        for entry in old.infolist():
            if entry.filename not in skip:
                new.writestr(entry.filename, old.read(entry))
        for entry, content in extra:
            new.writestr(entry, content)
    return target


def test_a_packed_bundle_comes_back_whole(archive, written_bundle, tmp_path):
    bundle = unpack(archive, tmp_path / "there")
    assert bundle.folder == tmp_path / "there"
    assert bundle.version == load_bundle(tmp_path / "there").version
    for path in written_bundle.iterdir():
        assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()


def test_packing_twice_gives_the_same_bytes(archive, written_bundle, tmp_path):
    copy = shutil.copytree(written_bundle, tmp_path / "copy")
    pack(copy, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_an_archive_that_another_tool_compressed_is_read(archive, tmp_path):
    other = rewritten(archive, tmp_path / "o.zip", method=zipfile.ZIP_DEFLATED)
    assert unpack(other, tmp_path / "there").version


def test_a_damaged_bundle_is_not_packed(bundle_folder, tmp_path):
    (bundle_folder / "card.md").write_text("other")
    with pytest.raises(BundleError, match=r"card\.md"):
        pack(bundle_folder, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../evil.txt", r"'\.\./evil\.txt' is refused"),
        ("/tmp/evil.txt", "is refused"),
        ("a\\..\\evil.txt", "is refused"),
        ("C:evil.txt", "is refused"),
        ("folder/", "is refused"),
        ("folder/file.txt", "got a folder"),
        (link("evil"), "got a link"),
        ("CARD.md", "duplicate name"),
        ("extra.txt", "does not list: extra.txt"),
    ],
    ids=str,
)
def test_an_entry_that_does_not_belong_is_refused_and_nothing_is_written(
    archive, tmp_path, entry, message
):
    bad = rewritten(archive, tmp_path / "bad.zip", (entry, b"/etc/passwd"))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BundleError, match=message):
        unpack(bad, tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_same_name_twice_is_refused(archive, tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        bad = rewritten(archive, tmp_path / "bad.zip", ("card.md", b"other"))
    with pytest.raises(BundleError, match="duplicate name"):
        unpack(bad, tmp_path / "there")


def test_a_compression_bomb_is_refused_by_its_declared_size(archive, tmp_path):
    bad = rewritten(
        archive, tmp_path / "b.zip", ("bomb", bytes(20_000_000)), method=zipfile.ZIP_DEFLATED
    )
    with pytest.raises(BundleError, match="times its packed size"):
        unpack(bad, tmp_path / "there")


def test_a_file_larger_than_it_declares_is_refused(archive, tmp_path):
    bad = rewritten(archive, tmp_path / "b.zip", skip=("card.md",))
    with zipfile.ZipFile(bad, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("card.md", bytes(3_000_000))
        file.getinfo("card.md").file_size = 100
        file._didModify = True
    with pytest.raises(BundleError, match=r"damaged|refused"):
        unpack(bad, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ArchiveLimits(entries=3), "at most 3 files"),
        (ArchiveLimits(total_bytes=1000), "at most 1000 bytes"),
    ],
)
def test_archives_beyond_the_limits_are_refused(archive, tmp_path, limits, message):
    with pytest.raises(BundleError, match=message):
        unpack(archive, tmp_path / "there", limits)


def test_the_limit_on_the_size_holds_for_what_is_unpacked(archive, tmp_path):
    small = rewritten(archive, tmp_path / "s.zip", method=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="bytes unpacked"):
        unpack(small, tmp_path / "there", ArchiveLimits(total_bytes=small.stat().st_size))


def test_an_unusual_compression_is_refused(archive, tmp_path):
    bad = rewritten(archive, tmp_path / "b.zip", method=zipfile.ZIP_LZMA)
    with pytest.raises(BundleError, match="unusual entry"):
        unpack(bad, tmp_path / "there")


def test_what_is_no_archive_is_refused(archive, tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        unpack(tmp_path / "nowhere.zip", tmp_path / "there")
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(BundleError, match="is damaged"):
        unpack(tmp_path / "x.zip", tmp_path / "there")
    (tmp_path / "x.zip").write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(BundleError, match=r"is damaged|is refused"):
        unpack(tmp_path / "x.zip", tmp_path / "there")


def test_no_damage_to_an_archive_escapes_as_another_error_or_leaves_a_folder(archive, tmp_path):
    data = archive.read_bytes()
    for position in [*range(0, 400, 5), *range(len(data) - 700, len(data), 7)]:
        broken = bytearray(data)
        broken[position] ^= 0xFF
        (tmp_path / "x.zip").write_bytes(bytes(broken))
        try:
            unpack(tmp_path / "x.zip", tmp_path / "there")
        except BundleError:
            assert not (tmp_path / "there").exists()
        else:
            shutil.rmtree(tmp_path / "there")


def test_a_folder_that_is_no_bundle_is_not_replaced(archive, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="is not replaced"):
        unpack(archive, tmp_path / "there")
