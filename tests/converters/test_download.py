import threading

import pytest

from converters import download
from jaxgpt.errors import UserError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.2)


def test_a_hub_that_drips_bytes_is_given_up(tmp_path):
    given_up = threading.Event()

    def drip():
        while not given_up.wait(0.05):
            with (tmp_path / "model.incomplete").open("ab") as file:
                file.write(b"x")

    with pytest.raises(UserError, match=r"the hub sent \d+ bytes of owner/model in 0 s; try again later"):
        download.download("owner/model", drip, [tmp_path])
    given_up.set()


def test_a_slow_download_that_goes_on_is_waited_for(tmp_path):
    pause = threading.Event()

    def slow():
        for _ in range(10):
            pause.wait(0.08)
            with (tmp_path / "model.incomplete").open("ab") as file:
                file.write(bytes(1000))
        return "whole"

    assert download.download("owner/model", slow, [tmp_path]) == "whole"


def test_what_a_download_raises_is_raised(tmp_path):
    def fail():
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        download.download("owner/model", fail, [tmp_path / "absent"])
