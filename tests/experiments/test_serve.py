"""What `python -m experiments.serve` measures, at the size of a test."""

import pytest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_prompts_of_new_lengths_compile_nothing_and_the_server_answers(tmp_path):
    for package in ("torch", "transformers", "uvicorn"):
        pytest.importorskip(package)
    from experiments import serve

    found = serve.main("tiny", prompts=3, new_tokens=8, client_tokens=8, results=tmp_path)
    assert found["prompts"]["first_pass"]["programs"] == 2
    assert found["prompts"]["second_pass"]["programs"] == 0
    assert found["prompts"]["second_pass"]["alike"] == 1
    assert all(speed > 0 for speed in found["server"].values())
    assert (tmp_path / "serve.json").exists()
