"""The model card: where weights come from, what they are, how they were verified."""

from jaxgpt.model.gpt import GPT, num_parameters

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [jaxgpt, {kind}]
---

# A GPT of {parameters:,} parameters, as {kind}

Weights from: {origin}. Written by jaxgpt, stored in {dtype}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
```

| what | value |
|---|---|
{fields}

## Verification

{verification}
"""

NOT_VERIFIED = "Not verified yet. `jaxgpt verify FOLDER` compares logits, gradients and generation with transformers."
SHOWN = (
    "num_layers", "num_heads", "kv_heads", "d_model", "mlp_width", "context_length", "vocab_size",
    "position", "window", "activation", "tie_embeddings",
)  # fmt: skip


def model_card(model: GPT, kind: str, dtype: str, origin: str, verification: str = NOT_VERIFIED) -> str:
    """README.md of a folder."""
    fields = "\n".join(f"| {name} | {getattr(model.config, name)} |" for name in SHOWN)
    return CARD.format(
        kind=kind,
        parameters=num_parameters(model),
        origin=origin,
        dtype=dtype,
        fields=fields,
        verification=verification,
    )
