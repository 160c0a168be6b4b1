import errno
import os
from pathlib import Path

import pytest

from infomech import InputError
from infomech._files import write_folder
from infomech.report import Report
from infomech.report.report import FILES

OWNED = ("page.html", "data.json", "figures/a.png", "figures/b.png")
OLD = {name: f"old {name}".encode() for name in OWNED}
NEW = {name: f"new {name}".encode() for name in OWNED[:3]}  # one file fewer: the old one must not stay beside them
FOREIGN = {"notes.txt": b"mine", "figures/mine.png": b"mine too", "deep/er/x": b"and this"}
FAILURES = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), RuntimeError("a figure failed")]


def lay(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def folders(base):
    return {p.relative_to(base).as_posix() for p in base.rglob("*") if p.is_dir()}


def write(folder, files=NEW, *, overwrite=True):
    return write_folder(folder, files.items(), owned=OWNED, what="report", overwrite=overwrite)


def failing_after(real, count, failure):
    """A function that fails at its call number `count`, the first being 0, and only then."""
    calls = iter(range(10**6))

    def call(*args, **kwargs):
        if next(calls) == count:
            raise failure
        return real(*args, **kwargs)

    return call


def test_a_new_folder_with_its_parents(tmp_path):
    assert write(tmp_path / "a" / "b", overwrite=False) == tmp_path / "a" / "b"
    assert contents(tmp_path) == {f"a/b/{name}": content for name, content in NEW.items()}


def test_an_empty_folder_needs_no_permission(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == NEW
    assert folders(tmp_path) == {"out", "out/figures"}


def test_other_files_are_refused_by_name(tmp_path):
    lay(tmp_path / "out", FOREIGN)
    with pytest.raises(
        InputError, match=r"holds other files \(deep, notes\.txt\); choose another folder, or pass overwrite"
    ):
        write(tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == FOREIGN


def test_an_earlier_report_is_refused_too(tmp_path):
    lay(tmp_path / "out", OLD)
    with pytest.raises(InputError, match=r"holds a report already; choose another folder, or pass overwrite=True"):
        write(tmp_path / "out", overwrite=False)
    assert contents(tmp_path / "out") == OLD


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a file; name a folder"):
            write(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(InputError, match="could not write the report"):
        write(tmp_path / "out" / "below")
    assert contents(tmp_path) == {"out": b"x"}


def test_overwriting_replaces_what_is_ours_and_keeps_the_rest(tmp_path):
    lay(tmp_path / "out", OLD | FOREIGN)
    write(tmp_path / "out")
    assert contents(tmp_path / "out") == NEW | FOREIGN
    assert folders(tmp_path) == {"out", "out/figures", "out/deep", "out/deep/er"}


def test_a_folder_of_ours_that_gets_empty_goes(tmp_path):
    lay(tmp_path / "out", OLD)
    write(tmp_path / "out", {"page.html": b"only this"})
    assert contents(tmp_path / "out") == {"page.html": b"only this"}
    assert folders(tmp_path / "out") == set()


def test_a_folder_behind_a_link(tmp_path):
    lay(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == NEW


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("place", ["render", "write_bytes", "mkdir", "rename", "rmdir"])
@pytest.mark.parametrize("before", ["nothing", "report", "report and others", "others"])
def test_a_failure_at_any_moment_leaves_everything_as_it_was(tmp_path, monkeypatch, failure, place, before):
    """Fails every call in turn, of every kind, until one run gets through; each failure must leave no trace."""
    at = {"report": OLD, "report and others": OLD | FOREIGN, "others": FOREIGN, "nothing": {}}[before]
    out = tmp_path / "parent" / "out" if before == "nothing" else tmp_path / "out"
    lay(out, at) if at else None
    was, were = contents(tmp_path), folders(tmp_path)
    expected = InputError if isinstance(failure, OSError) else type(failure)
    owner, name = {"rename": (os, "rename"), "rmdir": (Path, "rmdir")}.get(place, (Path, place))
    failed = 0
    for count in range(100):
        with monkeypatch.context() as patch:
            files = iter(NEW.items())
            if place == "render":

                def broken(count=count):
                    for position, item in enumerate(NEW.items()):
                        if position == count:
                            raise failure
                        yield item

                files = broken()
            else:
                patch.setattr(owner, name, failing_after(getattr(owner, name), count, failure))
            error = None
            try:
                write_folder(out, files, owned=OWNED, what="report", overwrite=True)
            except expected as caught:
                error = caught
        if error is None:
            break
        failed += 1
        assert not isinstance(failure, OSError) or "No space left on device; nothing there was changed" in str(error)
        assert "\n" not in str(error)
        assert contents(tmp_path) == was
        assert folders(tmp_path) == were
    if place != "rmdir":  # a folder that cannot be removed is no reason to fail with OSError
        assert failed >= {"render": 3, "write_bytes": 3, "mkdir": 3, "rename": 1 if before == "nothing" else 3}[place]
    assert contents(out) == NEW | {k: v for k, v in at.items() if k in FOREIGN}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("failure", FAILURES[:2], ids=lambda f: type(f).__name__)
def test_a_real_report_survives_a_failure_at_each_of_its_files(tmp_path, monkeypatch, awkward, diagnosis, failure):
    out = tmp_path / "out"
    Report(awkward).save(out, figures=False)
    (out / "mine.txt").write_bytes(b"mine")
    was = contents(tmp_path)
    monkeypatch.setattr(Report, "_figures", lambda self: iter([("figures/map.png", b"1"), ("figures/map.pdf", b"2")]))
    for count in range(7):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", failing_after(Path.write_bytes, count, failure))
            with pytest.raises(InputError if isinstance(failure, OSError) else KeyboardInterrupt):
                Report(diagnosis).save(out, overwrite=True)
        assert contents(tmp_path) == was
    assert Report(diagnosis).save(out, overwrite=True) == out / "report.html"
    assert (out / "mine.txt").read_bytes() == b"mine"


def test_the_list_of_files_is_what_a_report_writes(tmp_path, diagnosis):
    Report(diagnosis).save(tmp_path / "out")
    with_curves = {"figures/curves.png", "figures/curves.pdf"}  # of a report that has them
    assert with_curves < set(FILES)
    with_twins = {"pairs-tied.npy"}
    assert set(contents(tmp_path / "out")) == set(FILES) - with_curves - with_twins
    Report(diagnosis).save(tmp_path / "out", overwrite=True, figures=False)
    assert set(contents(tmp_path / "out")) == {"report.html", "report.json", "report.md", "report.tex", "pictures.npz"}


def test_a_folder_can_be_checked_before_the_work(tmp_path):
    Report.check_folder(tmp_path / "new")
    Report.check_folder(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(InputError, match="holds other files"):
        Report.check_folder(tmp_path)
    Report.check_folder(tmp_path, overwrite=True)
    assert contents(tmp_path) == {"x": b""}


def test_a_folder_without_permission(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            write(tmp_path / "out")
    finally:
        tmp_path.chmod(0o700)
