import subprocess
import sys

import pooch
import pytest

from jaxgpt.data.corpus import read, with_tabs


def test_the_standard_library_is_megabytes_of_code_and_manual():
    documents = read("stdlib").documents
    text = "\n".join(documents)
    assert len(text) > 5_000_000
    assert "class OrderedDict" in text
    assert any(document.startswith('The "assert" statement') for document in documents)
    assert "\n\tdef " in text
    assert "\n    def " not in text


def test_the_standard_library_reads_the_same_twice():
    assert read("stdlib") == read("stdlib")


def test_only_indentation_becomes_tabs_and_it_can_be_undone():
    text = "a    b\n    c\n\n          d    e\n  f\n"
    assert with_tabs(text) == "a    b\n\tc\n\n\t\t  d    e\n  f\n"
    assert with_tabs(text).replace("\t", 4 * " ") == text


def test_a_python_without_sources_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match="has 0 modules"):
        read("stdlib")


def test_shakespeare_is_taken_from_the_path_given(shakespeare, monkeypatch):
    monkeypatch.setenv("JAXGPT_SHAKESPEARE", str(shakespeare))
    (document,) = read("shakespeare").documents
    assert document.startswith("First Citizen:\n")
    assert len(document) == 1_115_394


def test_another_text_is_not_shakespeare(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Marlowe")
    monkeypatch.setenv("JAXGPT_SHAKESPEARE", str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match="not the published text"):
        read("shakespeare")


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("wrong hash")])
def test_a_download_that_fails_says_what_to_do(monkeypatch, error):
    def retrieve(*args, **kwargs):
        raise error

    monkeypatch.delenv("JAXGPT_SHAKESPEARE", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ValueError, match=r"downloaded.*set JAXGPT_SHAKESPEARE"):
        read("shakespeare")


def test_a_folder_is_its_text_files_in_order(tmp_path):
    for name in ("b.txt", "a/z.md", "c.py", "picture.png", ".hidden/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty.txt").touch()
    assert read(str(tmp_path)).documents == ["a/z.md", "b.txt", "c.py"]


def test_the_same_text_has_the_same_hash_and_another_has_another(tmp_path):
    hashes = []
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two")):
        (tmp_path / name).write_text(text)
        hashes.append(read(str(tmp_path / name)).source_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_text_is_read_byte_for_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve\r\nrobot 🤖\n".encode())
    assert read(str(tmp_path / "a.txt")).documents == ["naïve\r\nrobot 🤖\n"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"ab\0c", "not text in UTF-8"),
        (b"caf\xe9", "not text in UTF-8"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.txt.*{message}"):
        read(str(tmp_path / "bad.txt"))


def test_what_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist.*stdlib, shakespeare"):
        read(str(tmp_path / "nowhere"))


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="holds no text"):
        read(str(tmp_path))


def test_importing_touches_no_file_and_no_device(tmp_path):
    code = "import jaxgpt.data, jax; from jax._src import xla_bridge; assert not xla_bridge._backends"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"JAXGPT_CACHE": str(tmp_path / "cache")}, check=True
    )
    assert not list(tmp_path.iterdir())
