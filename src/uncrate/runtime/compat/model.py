"""What old model classes expect of `PreTrainedModel`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from uncrate.runtime.compat.hooks import ClassBody, Hooks, Legacy

# True while the loader builds a model whose weights come from a file: nothing is initialised and nothing is tied yet.
building: ContextVar[bool] = ContextVar("building", default=False)


def _model_mixin(hooks: Hooks, mixin: type) -> None:
    hooks.mixins.setdefault("model", []).append(mixin)


class UnfinishedInit(Legacy):
    """Old classes may leave out `post_init()`; what it would have set is worked out when somebody asks."""

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        if "_all_tied_weights_keys" not in self.__dict__:
            return dict(self.get_expanded_tied_weights_keys(all_submodels=True))  # type: ignore[attr-defined]
        tied: dict[str, str] = self.__dict__["_all_tied_weights_keys"]
        return tied

    @all_tied_weights_keys.setter
    def all_tied_weights_keys(self, value: dict[str, str]) -> None:
        self.__dict__["_all_tied_weights_keys"] = value

    def init_weights(self) -> None:
        if not building.get():
            super().init_weights()  # type: ignore[misc]


class NoGenericInit(Legacy):
    """A class that says nothing about initialisation kept what its modules did themselves; rotary tables were never
    rewritten."""

    def _init_weights(self, module: Any) -> None:
        if any(owner.__module__.startswith("transformers.models.") for owner in type(self).__mro__):
            super()._init_weights(module)  # type: ignore[misc]


def no_generic_init(hooks: Hooks) -> None:
    """Leave modules of classes without `_init_weights` as they made themselves."""
    _model_mixin(hooks, NoGenericInit)


def unfinished_init(hooks: Hooks) -> None:
    """Let classes without `post_init()` be saved, resized and tied."""
    _model_mixin(hooks, UnfinishedInit)


class TiedKeys(Legacy):
    """Tying as it was: decided by the config and `get_output_embeddings`, whatever the list of tied keys says."""

    def get_output_embeddings(self) -> Any:
        # Until 4.54 the base class had no output embeddings: a head was tied only where a class named it.
        if type(self)._tied_weights_keys is None:  # type: ignore[attr-defined]
            return None
        return super().get_output_embeddings()  # type: ignore[misc]

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        if all_submodels or isinstance(self._tied_weights_keys, dict):  # type: ignore[attr-defined]
            made: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels=all_submodels)  # type: ignore[misc]
            return made
        return tied_by_config(self)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        super().tie_weights(*args, **kwargs)  # type: ignore[misc]
        if not isinstance(self._tied_weights_keys, dict):  # type: ignore[attr-defined]
            for module in self.modules():  # type: ignore[attr-defined]
                if hasattr(module, "_tie_weights"):
                    module._tie_weights()

    def _tie_or_clone_weights(self, output_embeddings: Any, input_embeddings: Any) -> None:
        output_embeddings.weight = input_embeddings.weight
        self._adjust_bias(output_embeddings, input_embeddings)  # type: ignore[attr-defined]


def tied_by_config(model: Any) -> dict[str, str]:
    """Return {head weight: embedding weight} when the config says that they are one tensor, else nothing."""
    if not getattr(model.config, "tie_word_embeddings", True):
        return {}
    try:
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return {}
    names = {id(module): name for name, module in model.named_modules(remove_duplicate=False)}
    if head is embedding or not all(id(module) in names and hasattr(module, "weight") for module in (head, embedding)):
        return {}
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}


def _accepts(function: Callable[..., Any], *names: str) -> bool:
    parameters = inspect.signature(function).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return anything or all(name in parameters for name in names)


class TiedKeyList(list[str]):
    """The old list of tied names, with the one method that new code calls on what is a table today."""

    def keys(self) -> list[str]:
        return list(self)


def _edit_tie_weights(body: ClassBody) -> None:
    if body.kind == "model" and isinstance(body.namespace.get("_tied_weights_keys"), (list, tuple, set)):
        body.namespace["_tied_weights_keys"] = TiedKeyList(body.namespace["_tied_weights_keys"])
    function = body.namespace.get("tie_weights")
    if (
        body.kind != "model"
        or not inspect.isfunction(function)
        or _accepts(function, "missing_keys", "recompute_mapping")
    ):
        return

    @functools.wraps(function)
    def tie_weights(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self)

    del tie_weights.__wrapped__  # type: ignore[attr-defined]  # its signature is the new one
    body.namespace["tie_weights"] = tie_weights


def tied_keys_list(hooks: Hooks) -> None:
    """Tie as 4.x did."""
    _model_mixin(hooks, TiedKeys)
    hooks.edits.append(_edit_tie_weights)


class HeadMasks(Legacy):
    """Mask arithmetic that every old encoder calls; masks are 1 for "look here" and come back as numbers to add."""

    def get_head_mask(self, head_mask: Any, num_hidden_layers: int, is_attention_chunked: bool = False) -> Any:
        """Return [layers, B or 1, heads, 1, 1] for a mask [heads] or [layers, heads]; a list of None for None."""
        if head_mask is None:
            return [None] * num_hidden_layers
        head_mask = self._convert_head_mask_to_5d(head_mask, num_hidden_layers)
        return head_mask.unsqueeze(-1) if is_attention_chunked else head_mask

    def _convert_head_mask_to_5d(self, head_mask: Any, num_hidden_layers: int) -> Any:
        if head_mask.dim() == 1:
            head_mask = head_mask[None, None, :, None, None].expand(num_hidden_layers, -1, -1, -1, -1)
        elif head_mask.dim() == 2:
            head_mask = head_mask[:, None, :, None, None]
        return head_mask.to(dtype=self.dtype)  # type: ignore[attr-defined]

    def invert_attention_mask(self, encoder_attention_mask: Any) -> Any:
        """Return [B, 1, 1 or T, S] of zeros and lowest numbers for a mask [B, S] or [B, T, S]."""
        import torch

        mask = (
            encoder_attention_mask[:, None]
            if encoder_attention_mask.dim() == 3
            else encoder_attention_mask[:, None, None]
        )
        dtype = self.dtype  # type: ignore[attr-defined]
        return (1.0 - mask.to(dtype=dtype)) * torch.finfo(dtype).min

    @staticmethod
    def create_extended_attention_mask_for_decoder(input_shape: Any, attention_mask: Any, device: Any = None) -> Any:
        """Return the causal mask [B, 1, T, S] of T new positions that see S, combined with a padding mask [B, S]."""
        import torch

        batch, length = input_shape
        positions = torch.arange(length, device=attention_mask.device)
        causal = (positions[None, None, :].repeat(batch, length, 1) <= positions[None, :, None]).to(
            attention_mask.dtype
        )
        earlier = attention_mask.shape[1] - length
        if earlier > 0:
            causal = torch.cat([causal.new_ones(batch, length, earlier), causal], dim=-1)
        return causal[:, None] * attention_mask[:, None, None]

    def get_extended_attention_mask(
        self, attention_mask: Any, input_shape: Any, device: Any = None, dtype: Any = None
    ) -> Any:
        """Return numbers to add to scores [B, H, T, S] for a mask [B, S] or [B, T, S]; causal when
        config.is_decoder."""
        import torch

        dtype = dtype if dtype is not None else self.dtype  # type: ignore[attr-defined]
        if attention_mask.dim() == 3:
            mask = attention_mask[:, None]
        elif attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}; two or three axes are expected"
            )
        elif self.config.is_decoder:  # type: ignore[attr-defined]
            mask = self.create_extended_attention_mask_for_decoder(input_shape, attention_mask, device)
        else:
            mask = attention_mask[:, None, None]
        return (1.0 - mask.to(dtype=dtype)) * torch.finfo(dtype).min


def head_mask_methods(hooks: Hooks) -> None:
    """Give the mask methods back."""
    _model_mixin(hooks, HeadMasks)


class RemovedMethods(Legacy):
    """Small methods and class methods that went away."""

    is_parallelizable = False

    def prune_heads(self, heads_to_prune: dict[int, list[int]]) -> None:
        for layer, heads in heads_to_prune.items():
            self.config.pruned_heads[layer] = sorted(set(self.config.pruned_heads.get(layer, [])) | set(heads))  # type: ignore[attr-defined]
        self.base_model._prune_heads(heads_to_prune)  # type: ignore[attr-defined]

    @classmethod
    def _autoset_attn_implementation(cls, config: Any, *args: Any, **kwargs: Any) -> Any:
        # The constructor chooses now; code that asked for an early choice gets the config as it is.
        return config

    @classmethod
    def _check_and_enable_sdpa(cls, config: Any, hard_check_only: bool = False) -> Any:
        return config

    @classmethod
    def _check_and_enable_flash_attn_2(cls, config: Any, *args: Any, **kwargs: Any) -> Any:
        return config

    def warn_if_padding_and_no_attention_mask(self, input_ids: Any, attention_mask: Any) -> None:
        """A remark about missing masks that old forward methods ask for; there is nothing to return."""


def removed_methods(hooks: Hooks) -> None:
    """Give small methods back."""
    _model_mixin(hooks, RemovedMethods)


def _edit_support_flags(body: ClassBody) -> None:
    if body.kind != "model":
        return
    for name, value in list(body.namespace.items()):
        if name.startswith("_supports_") and isinstance(value, property) and value.fget is not None:
            body.namespace[name] = property(_asked_early(value.fget))


def _asked_early(getter: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(getter)
    def read(self: Any) -> Any:
        try:
            return getter(self)
        except AttributeError:
            # Old code read the flag on the class, where a property object counts as true.
            return True

    return read


def support_flags_property(hooks: Hooks) -> None:
    """Let support flags be properties of submodules."""
    hooks.edits.append(_edit_support_flags)


class ClassAnnotations(Legacy):
    """Annotations were never evaluated; a name that only a type checker can see is no reason to fail."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        try:
            super().__init_subclass__(**kwargs)
        except (NameError, TypeError, AttributeError, SyntaxError):
            # The installed method reads type hints to find config_class; old classes set it themselves.
            cls.config_class = getattr(cls, "config_class", None)  # type: ignore[attr-defined]


def class_annotations(hooks: Hooks) -> None:
    """Do not evaluate class annotations."""
    _model_mixin(hooks, ClassAnnotations)
