"""Drop-in names: `from uncrate.auto import AutoModelForCausalLM` where a program said `from transformers import ...`.

Real transformers objects, opened over uncrate's road: one commit, every problem told before a weight is read, and a
checkpoint's own code only where the lock approves it. `keywords.py` says what becomes of each keyword of
transformers' `from_pretrained`.
"""

from importlib.util import find_spec

from uncrate.errors import MissingPackage

if find_spec("transformers") is None:
    raise MissingPackage(
        "uncrate.auto gives transformers objects, and transformers is not installed",
        next="pip install 'uncrate[transformers]', or open the checkpoint with uncrate.open",
    )

from uncrate.auto.config import AutoConfig
from uncrate.auto.model import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from uncrate.auto.tokenizer import AutoProcessor, AutoTokenizer

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoProcessor",
    "AutoTokenizer",
]
