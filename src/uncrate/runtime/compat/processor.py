"""What old processor and image processor classes expect of their base classes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from uncrate.errors import CodeError, escape
from uncrate.runtime.compat.hooks import Hooks, Legacy
from uncrate.runtime.custom_code import closure_of, find_closure, load_module, module_name

# Which JSON file of a checkpoint names the class of a part, and under which key of its auto_map.
PARTS = {
    "tokenizer": ("tokenizer_config.json", "AutoTokenizer"),
    "image_processor": ("preprocessor_config.json", "AutoImageProcessor"),
    "feature_extractor": ("preprocessor_config.json", "AutoFeatureExtractor"),
    "video_processor": ("video_preprocessor_config.json", "AutoVideoProcessor"),
}


class OldProcessor(Legacy):
    """`attributes` and `<attribute>_class` say what a processor is made of; the parts may be the checkpoint's own
    classes."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        named = next((vars(owner)["attributes"] for owner in cls.__mro__ if "attributes" in vars(owner)), None)
        return list(named) if named else super().get_attributes()  # type: ignore[misc,no-any-return]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        optional = [*getattr(self, "optional_attributes", ()), *getattr(self, "optional_call_args", ())]
        for name in dict.fromkeys([*optional, "chat_template"]):
            setattr(self, name, kwargs.pop(name, None))
        named = dict(zip(self.get_attributes(), args, strict=False))
        for name, value in {**named, **kwargs}.items():
            if name not in self.get_attributes():
                raise TypeError(f"Unexpected keyword argument {name}.")
            setattr(self, name, value)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> None:
        """Accept any object: the checkpoint's own parts derive from nothing that could be checked."""

    @classmethod
    def _get_arguments_from_pretrained(cls, folder: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        del processor_dict
        return [_part_class(cls, name, Path(folder)).from_pretrained(folder, **kwargs) for name in cls.get_attributes()]


def _part_class(owner: type, name: str, folder: Path) -> Any:
    """Return the class of one part: the closure's own where the checkpoint's files name one, else transformers'."""
    import transformers

    kind = next((part for part in PARTS if name.endswith(part)), name)
    file, auto = PARTS.get(kind, ("processor_config.json", ""))
    path = folder / file
    reference = json.loads(path.read_text(encoding="utf-8")).get("auto_map", {}).get(auto) if path.is_file() else None
    references = reference if isinstance(reference, list) else [reference]
    own = next((each for each in reversed(references) if isinstance(each, str)), None)
    if own is not None:
        return _closure_class(owner, own)
    wanted = getattr(owner, f"{name}_class", None) or auto
    names = [each for each in (wanted if isinstance(wanted, (tuple, list)) else [wanted]) if each]
    for each in reversed(names):
        found = getattr(importlib.import_module(owner.__module__), each, None) or getattr(transformers, each, None)
        if found is not None:
            return found
    raise CodeError(f"{owner.__name__} wants a {escape(str(wanted))} as its {escape(name)}; there is none")


def _closure_class(owner: type, reference: str) -> Any:
    closure_hash = closure_of(owner.__module__)
    assert closure_hash is not None
    repo, _, inner = reference.rpartition("--")
    module, _, name = inner.rpartition(".")
    path = f"{repo}--{module.replace('.', '/')}.py" if repo else f"{module.replace('.', '/')}.py"
    found = vars(load_module(find_closure(closure_hash), module_name(path))).get(name)
    if not isinstance(found, type):
        raise CodeError(f"{escape(reference)} names no class of the approved code")
    return found


class OldImageProcessor(Legacy):
    """`rescale`, `normalize` and `center_crop` on numpy images [H, W, C] or [C, H, W], as every image processor had
    them."""

    def rescale(self, image: Any, scale: float, **options: Any) -> Any:
        return self._transform("rescale", image, scale=scale, **options)

    def normalize(self, image: Any, mean: Any, std: Any, **options: Any) -> Any:
        return self._transform("normalize", image, mean=mean, std=std, **options)

    def center_crop(self, image: Any, size: Any, **options: Any) -> Any:
        if isinstance(size, dict):
            size = (size["height"], size["width"])
        return self._transform("center_crop", image, size=size, **options)

    def _transform(self, name: str, image: Any, **options: Any) -> Any:
        following = getattr(super(), name, None)
        if following is not None:
            return following(image, **options)
        return getattr(importlib.import_module("transformers.image_transforms"), name)(image, **options)


def attributes(hooks: Hooks) -> None:
    """Make processors of what they name, from the checkpoint's own classes where it has them."""
    hooks.mixins.setdefault("processor", []).append(OldProcessor)
    hooks.mixins.setdefault("image processor", []).append(OldImageProcessor)
