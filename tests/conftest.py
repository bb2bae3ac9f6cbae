"""Every test runs on the CPU, off line, with shapes checked and silent broadcasting refused."""

import gc
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest
from jaxtyping import install_import_hook

# A shell without job control starts background commands with SIGINT ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
importlib.import_module("jaxgpt")  # sets an XLA flag, which JAX reads when it starts
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
# Most of a test's time is compilation, and nothing runs long enough for optimised machine code to pay.
jax.config.update("jax_disable_most_optimizations", True)

# Executes the shape annotations of what is imported from here on.
install_import_hook(["jaxgpt.ops", "jaxgpt.model", "jaxgpt.inference", "jaxgpt.evaluation"], "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the workers end together."""
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this test session, shared by its workers, in place of the user's. Programs are kept there."""
    from jaxgpt.runtime.user_cache import programs_folder

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXGPT_CACHE", str(folder))
        jax.config.update("jax_compilation_cache_dir", programs_folder())
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        yield folder


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Within, programs are compiled as a user's are."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def shakespeare() -> Path:
    """The path of tinyshakespeare.txt, where this machine has it."""
    path = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip("tinyshakespeare.txt is not on this machine, and tests do not download")
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run that was trained to its end. Copy it before changing anything in it."""
    from tests.runs import FLAGS, jaxgpt, write_text

    base = tmp_path_factory.mktemp("trained")
    outcome = jaxgpt("train", "tiny", *FLAGS, "--data.source", write_text(base / "text.txt"), "--run", base / "run")
    assert outcome.code == 0, outcome
    (base / "output.txt").write_text(outcome.out)
    return base / "run"


@pytest.fixture
def garbage_collected() -> Iterator[None]:
    """Objects that complain when they are collected do so in the test that made them, not in a later one."""
    yield
    gc.collect()
