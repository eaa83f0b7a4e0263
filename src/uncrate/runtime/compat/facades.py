"""Where pickle finds the stand-ins for transformers' config classes: by the class's own name, made when asked for."""

from __future__ import annotations


def __getattr__(name: str) -> type:
    import transformers

    from uncrate.runtime.compat.config import facade_of

    real = getattr(transformers, name, None)
    if not isinstance(real, type):
        raise AttributeError(f"transformers has no config class {name!r}")
    return facade_of(real)
