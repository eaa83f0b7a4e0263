"""A generation config that never answers None to old code where 4.x had a default."""

from __future__ import annotations

import sys
from typing import Any

from transformers import GenerationConfig

from uncrate.runtime.compat.config import GENERATION_DEFAULTS

_DEFAULTS = {**GENERATION_DEFAULTS, "use_cache": True}


class LegacyGenerationConfig(GenerationConfig):
    """`GenerationConfig`, with 4.x's defaults for unset fields when, and only when, the checkpoint's own code reads
    them.

    transformers itself must see None: that is how `generate()` tells what nobody set.
    """

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if value is None and name in _DEFAULTS:
            reader = sys._getframe(1).f_globals.get("__name__", "")
            if isinstance(reader, str) and reader.startswith("uncrate.runtime.approved.c"):
                return _DEFAULTS[name]
        return value
