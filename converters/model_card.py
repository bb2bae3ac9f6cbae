"""The model card: where weights come from, what they are, how they were verified."""

from pathlib import Path

from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import num_parameters

CARD = """---
library_name: {library}
pipeline_tag: text-generation
tags: [jaxgpt, {kind}]
---

# A GPT of {parameters:,} parameters, as {kind}

Weights from: {origin}. Written by jaxgpt, stored in {dtype}.

```{language}
{use}
```

| what | value |
|---|---|
{fields}

## Verification

{verification}
"""

TRANSFORMERS = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)"""
USES = {
    "gpt2": ("transformers", "python", TRANSFORMERS),
    "gpt_bigcode": ("transformers", "python", TRANSFORMERS),
    "starcoder2": ("transformers", "python", TRANSFORMERS),
    "nanogpt": ("nanogpt", "sh", "python train.py --init_from=resume --out_dir=FOLDER"),
    "jaxgpt": ("jaxgpt", "python", "import jaxgpt\n\nmodel = jaxgpt.load(FOLDER)"),
    "gguf": ("llama.cpp", "sh", "llama-completion -m FOLDER/model.gguf -p 'Once upon a time'"),
    "llm.c": ("llm.c", "sh", "./train_gpt2cu -e FOLDER/model.bin"),
}
"""Which library opens an architecture, and how, in which language."""

NOT_VERIFIED = "Not verified yet. `jaxgpt verify FOLDER` compares logits, gradients and generation with transformers."
SHOWN = (
    "num_layers", "num_heads", "kv_heads", "d_model", "mlp_width", "context_length", "vocab_size",
    "position", "window", "activation", "tie_embeddings",
)  # fmt: skip


def model_card(model: GPT, kind: str, dtype: str, origin: str) -> str:
    """README.md of a folder, not verified yet."""
    fields = "\n".join(f"| {name} | {getattr(model.config, name)} |" for name in SHOWN)
    library, language, use = USES[kind]
    return CARD.format(
        library=library,
        language=language,
        use=use,
        kind=kind,
        parameters=num_parameters(model),
        origin=origin,
        dtype=dtype,
        fields=fields,
        verification=NOT_VERIFIED,
    )


def add_certificate(folder: Path, certificate: str) -> None:
    """Put a verification's result on the model card of a folder."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace(NOT_VERIFIED, certificate), encoding="utf-8")


def name_on_card(folder: Path, name: str) -> None:
    """Let the card of a folder open the model by its name on the hub."""
    card = folder / "README.md"
    card.write_text(card.read_text(encoding="utf-8").replace("(FOLDER)", f'("{name}")'), encoding="utf-8")
