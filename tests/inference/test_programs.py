import dataclasses
import re

from jaxgpt.inference import texts
from jaxgpt.inference.generate import generate
from tests.variants import BASELINE, loud, text


def test_a_token_of_several_texts_does_not_copy_a_bfloat16_cache(monkeypatch):
    config = dataclasses.replace(BASELINE, dtype="bfloat16")
    programs, decode = [], texts.decode

    def compiled(*given, **options):
        programs.append(decode.lower(*given, **options).compile().as_text())
        return decode(*given, **options)

    monkeypatch.setattr(texts, "decode", compiled)
    generate(loud(config), text(config, 5, 4), 4, temperature=0)
    cache = rf"\[4,\d+,{config.kv_heads},{config.head_dim}\]"
    made_by = re.findall(rf"= (\w+){cache}\S* fusion\(.*calls=%(\w+)", programs[0])
    assert made_by == 2 * config.num_layers * [("u16", "wrapped_scatter_computation")]
