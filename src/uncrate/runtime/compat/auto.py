"""Auto classes as one checkpoint sees them: what it registers stays with it, and they run no code but its own."""

from __future__ import annotations

import importlib
from typing import Any

from uncrate.runtime.compat.hooks import Hooks

CONFIGS = "transformers.models.auto.configuration_auto"
FACTORY = "transformers.models.auto.auto_factory"


def private_auto_classes(hooks: Hooks) -> None:
    """Replace AutoConfig, AutoModel..., AutoTokenizer and AutoProcessor by stand-ins that keep registrations to the
    closure."""
    registered: dict[Any, Any] = {}
    hooks.replace_class.append(lambda value: _stand_in(value, hooks.closure, registered))


def _stand_in(real: type, closure: str, registered: dict[Any, Any]) -> type | None:
    if not real.__module__.startswith("transformers.models.auto") or not real.__name__.startswith("Auto"):
        return None

    def register(cls: type, /, key: Any, value: Any = None, exist_ok: bool = False, **more: Any) -> None:
        registered[(real.__name__, key)] = value if value is not None else more

    namespace: dict[str, Any] = {"register": classmethod(register), "__module__": __name__, "__doc__": real.__doc__}
    if real.__name__ == "AutoConfig":
        namespace["for_model"] = classmethod(_for_model(real, registered))
    elif hasattr(real, "from_config"):
        namespace["from_config"] = classmethod(_from_config(real, closure, registered))
    namespace["from_pretrained"] = classmethod(_from_pretrained(real))
    return type(real.__name__, (real,), namespace)


def _for_model(real: Any, registered: dict[Any, Any]) -> Any:
    def for_model(cls: type, model_type: str, *args: Any, **kwargs: Any) -> Any:
        own = registered.get(("AutoConfig", model_type))
        return own(*args, **kwargs) if own is not None else real.for_model(model_type, *args, **kwargs)

    return for_model


def _from_config(real: Any, closure: str, registered: dict[Any, Any]) -> Any:
    def from_config(cls: type, config: Any, **kwargs: Any) -> Any:
        for name in ("trust_remote_code", "code_revision"):
            kwargs.pop(name, None)
        own = registered.get((real.__name__, type(config))) or _by_auto_map(real.__name__, closure, config)
        return own._from_config(config, **kwargs) if own is not None else real.from_config(config, **kwargs)

    return from_config


def _by_auto_map(auto_name: str, closure: str, config: Any) -> Any:
    """Return the closure's own class that a nested config's auto_map names, or None."""
    reference = (getattr(config, "auto_map", None) or {}).get(auto_name)
    if not isinstance(reference, str):
        return None
    module, _, name = reference.rpartition("--")[2].rpartition(".")
    try:
        found = importlib.import_module(f"uncrate.runtime.approved.c{closure}.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.endswith(f".{module}"):
            return None
        raise
    return getattr(found, name, None)


def _from_pretrained(real: Any) -> Any:
    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        # Code of other repositories was not approved with this checkpoint.
        return real.from_pretrained(*args, **{**kwargs, "trust_remote_code": False})

    return from_pretrained
