import errno
import json
import os

import pytest

from jaxgpt.data import prepare
from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.manifest import is_prepared
from jaxgpt.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.txt", "a/z.md", "c.py", "d.jsonl.zst", "e.parquet", "f.TXT", "g.csv", ".hidden/h.txt", "i"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(*named, **more):
    return [source.name for source in find([str(name) for name in named], **more).inputs]


def test_a_folder_is_its_files_in_the_order_of_their_paths(folder):
    (folder / "a" / "b").mkdir()
    for name in ("a.txt", "a/b/c.txt", "a/b.txt"):
        (folder / name).touch()
    first = ["a/b/c.txt", "a/b.txt", "a/z.md", "a.txt"]
    assert names(folder) == [*first, "b.txt", "c.py", "d.jsonl.zst", "e.parquet"]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(folder):
    (folder / "loop").symlink_to("loop")
    assert names(folder)[0] == "a/z.md"
    (folder / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(UserError, match=r"loop\.txt cannot be read"):
        names(folder)


def test_a_folder_that_cannot_be_read_is_refused(folder, monkeypatch):
    listed = os.scandir

    def refuse_a(path):
        if path.endswith("/a"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse_a)
    with pytest.raises(UserError, match=r"/a cannot be read \(Permission denied\): check its permissions"):
        names(folder)


def test_what_is_left_out_is_counted_and_named(folder):
    (folder / "link").symlink_to(folder / "a")
    line = find([str(folder)]).describe_left_out()
    assert line.endswith("text of another suffix is read by --suffix .SUFFIX")
    counts = sorted(line.partition(";")[0].removeprefix("left out: ").split(", "))
    assert counts == ["1 (linked folder)", "1 .TXT", "1 .csv", "1 without a suffix"]
    assert find([str(folder / "a")]).describe_left_out() is None


def test_other_suffixes_are_text_where_they_are_named(folder):
    assert names(folder, suffixes=(".TXT", ".csv"))[-2:] == ["f.TXT", "g.csv"]


def test_a_pattern_is_what_the_shell_would_make_of_it(folder):
    assert names(folder / "*.??") == ["c.py"]
    assert names(folder / "**" / "*.md") == ["z.md"]


def test_a_file_named_by_itself_is_read_whatever_its_suffix(folder):
    assert names(folder / "g.csv", folder / "i") == ["g.csv", "i"]


def test_runs_and_prepared_data_below_a_folder_are_not_text(folder):
    for name, content in (
        ("run/config.json", {"jaxgpt_run": 1}),
        ("tokens/manifest.json", {"jaxgpt_data": 1}),
        ("x/config.json", {}),
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_text(json.dumps(content))
        (folder / name).with_name("README.txt").touch()
    (folder / "out").mkdir()
    (folder / "out" / "README.txt").touch()
    assert [name for name in names(folder, exclude=folder / "out") if "README" in name] == ["x/README.txt"]


def test_only_text_where_only_text_is_asked_for(folder):
    found = find([str(folder)], text_only=True)
    assert [source.name for source in found.inputs] == ["a/z.md", "b.txt", "c.py"]
    assert ".jsonl" in found.describe_left_out() or ".zst" in found.describe_left_out()


def test_a_pipe_in_place_of_a_mark_of_ours_is_not_waited_for(folder):
    for name in ("config.json", "manifest.json"):
        os.mkfifo(folder / "a" / name)
    assert "a/z.md" in names(folder)
    assert not is_prepared(folder / "a")
    (folder / "d").mkdir()
    (folder / "d" / "manifest.json").write_text("[" * 100_000)
    assert not is_prepared(folder / "d")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name/text.txt"])
def test_what_no_path_can_be_called_is_refused(name):
    with pytest.raises(UserError, match="is no path"):
        find([name])
    with pytest.raises(UserError, match="is no path"):
        prepare(name, "gpt2")
