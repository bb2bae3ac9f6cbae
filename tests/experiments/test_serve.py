"""What `python -m experiments.serve` measures, at the size of a test."""

import pytest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_prompts_of_new_lengths_compile_nothing_and_the_server_answers(tmp_path, monkeypatch):
    for package in ("torch", "transformers", "uvicorn", "xllamacpp"):
        pytest.importorskip(package)
    from experiments import serve
    from jaxgpt.config import GPTConfig

    small = GPTConfig(context_length=128, num_layers=2, num_heads=4, d_model=32)  # llama.cpp wants GPT-2's vocabulary
    monkeypatch.setattr(GPTConfig, "preset", lambda name, **_: small)
    found = serve.main("tiny", prompts=3, new_tokens=8, client_tokens=8, results=tmp_path)
    assert found["prompts"]["first_pass"]["programs"] == 2
    assert found["prompts"]["second_pass"]["programs"] == 0
    assert found["prompts"]["second_pass"]["alike"] == 1
    assert all(speed > 0 for speed in found["server"].values())
    assert (tmp_path / "serve.json").exists()
