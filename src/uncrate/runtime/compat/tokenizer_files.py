"""Tokenizers made from the files of a checkpoint as 4.x made them: every value of tokenizer_config.json under its own
name."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from uncrate.runtime.compat.hooks import Legacy
from uncrate.runtime.custom_code import closure_of


def _json(path: Any) -> dict[str, Any]:
    if path is None:
        return {}
    read: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return read


class OldFiles(Legacy):
    """The constructor gets what the files say, under the names that old constructors have.

    Today's loader renames additional_special_tokens, takes keys that end in "_token" away and forgets add_bos_token.
    """

    @classmethod
    def _from_pretrained(
        cls: Any,
        resolved_vocab_files: dict[str, Any],
        name: Any,
        init_configuration: dict[str, Any],
        *init_inputs: Any,
        **options: Any,
    ) -> Any:
        files = dict(resolved_vocab_files)
        for key in ("token", "cache_dir", "local_files_only", "_is_local", "trust_remote_code"):
            options.pop(key, None)
        given = _json(files.pop("tokenizer_config_file", None)) or dict(init_configuration)
        for key in ("tokenizer_class", "auto_map", "extra_special_tokens"):
            value = given.pop(key, None)
            if key == "extra_special_tokens" and isinstance(value, list):
                given.setdefault("additional_special_tokens", value)
        inputs = init_inputs or tuple(given.pop("init_inputs", ()))
        _chat_templates(files, given)
        given.update(options)
        added_file, map_file = files.pop("added_tokens_file", None), files.pop("special_tokens_map_file", None)
        for key, path in files.items():
            # A path inside tokenizer_config.json is never followed: it could name any file on this machine.
            given[key] = options.get(key) or path
        given["name_or_path"] = str(name)
        added = _added_tokens(given, _json(map_file), _json(added_file), files.get("tokenizer_file"), options)
        given = cls.convert_added_tokens({**given, "added_tokens_decoder": added}, save=False)
        by_text = {str(token): token for token in added.values()}
        for key in cls.SPECIAL_TOKENS_ATTRIBUTES:
            if given.get(key) is not None:
                given[key] = by_text.get(str(given[key]), given[key])
        given = _accepted(cls, given, tuple(files))
        return cls(*inputs, **cls.convert_to_native_format(**given))


def _chat_templates(files: dict[str, Any], given: dict[str, Any]) -> None:
    found: dict[str, str] = {}
    for key in [key for key in files if key.startswith("chat_template")]:
        path = files.pop(key)
        if path is not None:
            name = "default" if key == "chat_template_file" else key.removeprefix("chat_template_")
            found[name] = Path(path).read_text(encoding="utf-8")
    if found:
        given["chat_template"] = found["default"] if list(found) == ["default"] else found


def _added_tokens(
    given: dict[str, Any], special: dict[str, Any], added: dict[str, Any], tokenizer_file: Any, options: dict[str, Any]
) -> dict[int, Any]:
    """Return id to added token, from the newest description that the files have; `given` learns the special tokens."""
    from tokenizers import AddedToken

    if "added_tokens_decoder" in given:
        return {
            int(id_): AddedToken(**token) if isinstance(token, dict) else token
            for id_, token in given["added_tokens_decoder"].items()
        }
    for key, value in special.items():
        if options.get(key):
            continue
        if isinstance(value, dict):
            value = AddedToken(**{**value, "special": True})
        elif isinstance(value, list):
            value = [AddedToken(**{**token, "special": True}) if isinstance(token, dict) else token for token in value]
        given[key] = value
    marked = [value for key, value in given.items() if key.endswith("_token") or key == "additional_special_tokens"]
    texts = {str(token) for value in marked for token in (value if isinstance(value, list) else [value])}
    made = {
        int(id_): AddedToken(text, rstrip=False, lstrip=False, normalized=text not in texts, special=text in texts)
        for text, id_ in added.items()
    }
    for token in _json(tokenizer_file).get("added_tokens", []):
        made[token.pop("id")] = AddedToken(**token)
    return made


def _accepted(cls: type, given: dict[str, Any], files: tuple[str, ...]) -> dict[str, Any]:
    """Leave out the paths of files that a constructor has no parameter for, when it takes no others either."""
    parameters = inspect.signature(cls.__init__).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return {
            key: value for key, value in given.items() if key not in files or value is not None or key in parameters
        }
    return {key: value for key, value in given.items() if key in parameters}


class FastFromSlow(Legacy):
    """A fast tokenizer comes from tokenizer.json as it stands, else from its slow class through the converter of that
    class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        path = kwargs.get("tokenizer_file")
        ready = kwargs.get("tokenizer_object") is not None or (path is not None and Path(path).is_file())
        slow_class = getattr(self, "slow_tokenizer_class", None)
        if not ready and isinstance(slow_class, type) and closure_of(slow_class.__module__) is not None:
            converter = _converter(slow_class)
            if converter is not None:
                kwargs.pop("tokenizer_file", None)
                kwargs["tokenizer_object"] = converter(slow_class(*args, **kwargs)).converted()
        super().__init__(*args, **kwargs)

    @classmethod
    def convert_to_native_format(cls: Any, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        path = kwargs.get("tokenizer_file")
        if path is not None and Path(path).is_file():
            return kwargs
        slow_class = getattr(cls, "slow_tokenizer_class", None)
        if (
            isinstance(slow_class, type)
            and closure_of(slow_class.__module__) is not None
            and _converter(slow_class) is not None
        ):
            return kwargs
        made: dict[str, Any] = super().convert_to_native_format(trust_remote_code=True, **kwargs)
        return made

    def update_post_processor(self) -> None:
        # The base class had none: what tokenizer.json says about added tokens stood, whatever add_bos_token was.
        if any(owner.__module__.startswith("transformers.models.") for owner in type(self).__mro__):
            super().update_post_processor()


def _converter(slow_class: type) -> Any:
    from uncrate.runtime import custom_code

    closure_hash = closure_of(slow_class.__module__)
    assert closure_hash is not None
    hooks = custom_code.find_closure(closure_hash).hooks()
    table = hooks.view("transformers.convert_slow_tokenizer").SLOW_TO_FAST_CONVERTERS
    return table.get(slow_class.__name__)
