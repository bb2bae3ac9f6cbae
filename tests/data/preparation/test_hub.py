import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxgpt.data.preparation import hub
from jaxgpt.data.preparation.inputs import Input, find
from jaxgpt.errors import UserError
from tests.runs import jaxgpt


@pytest.fixture
def files(monkeypatch):
    """A hub that is a dictionary."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    monkeypatch.setattr(hub, "_filesystem", lambda: Plain(memory))

    def put(path: str, *texts: str) -> None:
        with memory.open(path, "wb") as file:
            pq.write_table(pa.table({"text": texts}), file)

    yield put
    memory.store.clear()


class Plain:
    """Paths without the slash that the memory file system puts before them."""

    def __init__(self, memory):
        self.open = memory.open
        self.memory = memory

    def find(self, root, detail):
        return {path.lstrip("/"): file for path, file in self.memory.find(root, detail=detail).items()}


def test_the_parquet_files_of_a_data_set_are_prepared(files, tmp_path):
    for number in range(3):
        files(f"datasets/owner/name/sample/10BT/00{number}.parquet", f"Document {number}.")
    files("datasets/owner/name/other/000.parquet", "Another.")
    assert len(find(["hf://datasets/owner/name"]).inputs) == 4
    outcome = jaxgpt("data", "prepare", "hf://datasets/owner/name/sample/10BT", tmp_path / "out", "--validation", 0)
    assert outcome.code == 0, outcome
    assert "3 documents" in outcome.out


def test_a_split_of_the_data_set_is_held_back(files, tmp_path):
    files("datasets/o/n/data/train-00000-of-00001.parquet", "a", "b", "c")
    files("datasets/o/n/data/test-00000-of-00001.parquet", "d", "e")
    files("datasets/o/n/data/validation-00000-of-00001.parquet", "f")
    outcome = jaxgpt("data", "prepare", "hf://datasets/o/n", tmp_path / "out", "--validation", "test")
    assert outcome.code == 0, outcome
    assert [line.split()[3] for line in outcome.out.splitlines()[:2]] == ["3", "2"]
    outcome = jaxgpt("data", "prepare", "hf://datasets/o/n", tmp_path / "no", "--validation", "dev")
    assert "these are test, train, validation" in outcome.err


def test_data_sets_of_other_formats_have_a_parquet_copy(files):
    files("datasets/o/n@refs%2Fconvert%2Fparquet/default/train/0000.parquet", "a")
    (found,) = find(["hf://datasets/o/n/default"]).inputs
    assert found.name == "default/train/0000.parquet"


def test_a_data_set_that_is_not_there_is_told(files):
    with pytest.raises(UserError, match="o/n has no parquet files"):
        find(["hf://datasets/o/n"])


def test_a_hub_out_of_reach_is_told():
    with pytest.raises(UserError, match="cannot be read from the hub"):
        find(["hf://datasets/o/n"])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("test/0000.parquet", "test"),
        ("val_1.parquet", "validation"),
        ("trains.parquet", None),
    ],
)
def test_a_file_tells_its_split_by_its_name(name, split):
    assert hub.split_name(Input("", name, "parquet", 0)) == split
