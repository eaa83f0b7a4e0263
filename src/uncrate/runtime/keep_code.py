"""What approved code saves, it saves with its code: `save_pretrained` of a class writes the closure's files beside.

transformers copies a module's file for classes that it loaded from a checkpoint; an approved module has no file, its
bytes are here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REGISTERED = "_uncrate_registered"


def keep_code(cls: Any, files: Mapping[str, bytes]) -> None:
    """Let `cls`, a class of approved code, save `files` (path to bytes) with every object of it.

    `register_for_auto_class` has its usual effect: the auto_map that is saved names the class.
    """
    if _REGISTERED in vars(cls) or not hasattr(cls, "save_pretrained"):
        return
    setattr(cls, _REGISTERED, None)
    plain = cls.save_pretrained

    @functools.wraps(plain)
    def save_pretrained(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        registered = getattr(type(self), _REGISTERED)
        config = getattr(self, "config", self)
        if registered is not None and hasattr(config, "to_diff_dict"):
            reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
            config.auto_map = {**(getattr(config, "auto_map", None) or {}), registered: reference}
        saved = plain(self, save_directory, *args, **kwargs)
        for path, data in files.items():
            target = Path(save_directory) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return saved

    cls.save_pretrained = save_pretrained
    if hasattr(cls, "register_for_auto_class"):
        cls.register_for_auto_class = classmethod(_registering(cls.register_for_auto_class.__func__))


def _registering(plain: Any) -> Any:
    @functools.wraps(plain)
    def register_for_auto_class(cls: Any, *args: Any, **kwargs: Any) -> None:
        plain(cls, *args, **kwargs)
        # Told by `_auto_class`, transformers would copy the module's file.
        setattr(cls, _REGISTERED, cls._auto_class)
        cls._auto_class = None

    return register_for_auto_class
