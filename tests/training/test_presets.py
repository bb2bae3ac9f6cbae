"""The presets, as values."""

import pytest

from jaxgpt.parallel.mesh import check_batch
from jaxgpt.training.presets import PRESETS

SMALL = ("quickstart", "shakespeare-char-cpu", "shakespeare-char", "tiny")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_the_small_presets_run_on_one_to_eight_devices(name, devices):
    config = PRESETS[name].config
    check_batch(config.batch_size, devices, config.microbatches)


def test_the_quickstart_needs_no_network_and_reports_its_way():
    config = PRESETS["quickstart"].config
    assert config.data.source == "stdlib"
    assert config.steps % config.eval_every == 0
    assert config.steps // config.eval_every >= 5
