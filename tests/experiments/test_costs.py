"""The three questions, at the size of the issue, counted and not measured."""

import dataclasses
import re

import pytest

from experiments.costs import gpt2_costs, variants
from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import abstract_model, num_parameters


def difference(**changes) -> int:
    base = GPTConfig.preset("gpt2")
    here, there = (num_parameters(abstract_model(c)) for c in (dataclasses.replace(base, **changes), base))
    return here - there


def test_rotary_in_place_of_learned_positions_is_their_table_less():
    assert difference(position="rotary") == -1024 * 768 == -786_432


@pytest.mark.parametrize("heads", [6, 4, 3, 2, 1])
def test_each_key_value_head_less_is_the_same_number_of_parameters_less(heads):
    assert difference(num_kv_heads=heads) == -(12 - heads) * 12 * 2 * (768 + 1) * 64


@pytest.mark.parametrize("window", [1, 256, 4096, (256, None)])
def test_a_window_changes_no_parameter(window):
    assert difference(window=window) == 0


def test_the_costs_at_124m_are_those_of_the_issue():
    lost = {name: row["parameters_difference"] for name, row in gpt2_costs().items()}
    assert lost["rotary"] == -786_432
    assert lost["grouped-4"] == -9_449_472
    assert lost["windowed"] == lost["alternating"] == lost["baseline"] == 0
    assert lost["all"] == lost["rotary"] + lost["grouped-4"]


def test_each_variant_differs_from_the_baseline_by_its_own_switch_alone():
    found = variants(GPTConfig.preset("tiny"), (2, 1), 8)
    for name, config in found.items():
        changed = {field for field, value in config.to_dict().items() if value != found["baseline"].to_dict()[field]}
        switches = {"rotary": "position", "grouped": "num_kv_heads", "windowed": "window", "alternating": "window"}
        expected = set(switches.values()) if name == "all" else {switches.get(re.sub(r"-\d+", "", name))} - {None}
        assert changed == expected
