"""Proof that a folder holds what was to be written, on its model card."""

from pathlib import Path

from converters.model_card import add_certificate
from converters.verification.verify import verify
from jaxgpt.errors import UserError


def certify(folder: Path) -> None:
    """Verify a folder that was just written, and put the certificate on its model card.

    For `save_pretrained(check=certify)`. Raises UserError where a bound is exceeded.
    """
    certificate = verify(folder)
    if not certificate.holds:
        exceeded = ", ".join(f"{m.name} {m.value:.1e}" for m in certificate.measures if not m.holds)
        raise UserError(f"transformers computes something else from what was written: {exceeded}; nothing is kept")
    add_certificate(folder, certificate.to_markdown())
