"""Key-value caches that answer in the language of 4.36 to 4.5x as well."""

# Mixins speak of attributes that their future base classes have; transformers names them at run time.
# mypy: disable-error-code="attr-defined,misc,union-attr,return-value,arg-type"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache

from uncrate.runtime.compat.hooks import Hooks, Legacy


class OldCacheApi(Legacy):
    """The methods and attributes that caches had; for `Cache` subclasses whose layers hold keys and values [B, H, T,
    D]."""

    layers: list[Any]

    @property
    def key_cache(self) -> list[torch.Tensor]:
        return [layer.keys for layer in self.layers]

    @property
    def value_cache(self) -> list[torch.Tensor]:
        return [layer.values for layer in self.layers]

    @property
    def seen_tokens(self) -> int:
        return self.get_seq_length()

    @property
    def _seen_tokens(self) -> int:
        return self.get_seq_length()

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        length: int = super().get_seq_length(layer_idx or 0)
        return length

    def get_max_length(self, layer_idx: int | None = None) -> int | None:
        """Return the longest sequence the cache can hold, None (not today's -1) where there is no limit."""
        limit = super().get_max_length(layer_idx) if self.layers else -1
        return None if limit == -1 else limit

    def get_max_cache_shape(self, layer_idx: int | None = None) -> int | None:
        return self.get_max_length(layer_idx)

    def get_usable_length(self, new_seq_length: int, layer_idx: int | None = 0) -> int:
        """Return how many cached positions the next `new_seq_length` positions can still see."""
        limit, length = self.get_max_length(), self.get_seq_length(layer_idx)
        return limit - new_seq_length if limit is not None and length + new_seq_length > limit else length

    def __getitem__(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        if layer_idx >= len(self.layers):
            raise KeyError(f"the cache has {len(self.layers)} layers, layer {layer_idx} was asked for")
        layer = self.layers[layer_idx]
        return layer.keys, layer.values

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for layer in self.layers:
            yield layer.keys, layer.values

    def to_legacy_cache(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return the cache as a tuple of (keys, values) for each layer."""
        return tuple((layer.keys, layer.values) for layer in self.layers)

    def crop(self, max_length: int) -> None:
        """Keep the first `max_length` positions; a negative number removes as many from the end, as today."""
        length = self.get_seq_length()
        remove = max_length if max_length < 0 else min(max_length - length, 0)
        super().crop(remove)


class LegacyDynamicCache(OldCacheApi, DynamicCache):
    """`DynamicCache` with its old methods; its layers keep every position, as they did, whatever the config says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # 4.x took an optional number of layers; a config would turn on sliding layers, which old masks know nothing of.
        if args and (args[0] is None or isinstance(args[0], int)):
            args = args[1:]
        kwargs.pop("config", None)
        kwargs.pop("num_hidden_layers", None)
        super().__init__(*args, **kwargs)

    @classmethod
    def from_legacy_cache(cls, past_key_values: Any = None, num_hidden_layers: int | None = None) -> LegacyDynamicCache:
        """Return a cache that holds a tuple of (keys, values) for each layer; empty for None."""
        cache = cls()
        for layer_idx, layer in enumerate(past_key_values or ()):
            cache.update(layer[0], layer[1], layer_idx)
        return cache

    def set_layer(self, layer_idx: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        while len(self.layers) <= layer_idx:
            self.layers.append(DynamicLayer())
        self.layers[layer_idx].keys, self.layers[layer_idx].values = keys, values


class LegacyStaticCache(OldCacheApi, StaticCache):
    """`StaticCache` with its old constructor arguments and methods."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        names = ("max_batch_size", "max_cache_len", "device", "dtype")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        length = given.get("max_cache_len") or config.max_position_embeddings
        super().__init__(config=config, max_cache_len=length)


class LegacyEncoderDecoderCache(EncoderDecoderCache):
    """`EncoderDecoderCache` that can be made from, indexed like and turned back into tuples of four tensors."""

    @classmethod
    def from_legacy_cache(cls, past_key_values: Any = None) -> LegacyEncoderDecoderCache:
        """Return a cache that holds (keys, values[, cross keys, cross values]) for each layer."""
        cache = cls(LegacyDynamicCache(), LegacyDynamicCache())
        for layer_idx, layer in enumerate(past_key_values or ()):
            cache.self_attention_cache.update(layer[0], layer[1], layer_idx)
            if len(layer) > 2:
                cache.cross_attention_cache.update(layer[2], layer[3], layer_idx)
                cache.is_updated[layer_idx] = True
        return cache

    def to_legacy_cache(self) -> tuple[tuple[torch.Tensor, ...], ...]:
        """Return the cache as a tuple of two or four tensors for each layer."""
        return tuple(self[index] for index in range(len(self.self_attention_cache.layers)))

    def __getitem__(self, layer_idx: int) -> tuple[torch.Tensor, ...]:
        own = self.self_attention_cache.layers[layer_idx]
        cross = self.cross_attention_cache.layers
        if layer_idx < len(cross) and cross[layer_idx].keys is not None:
            return own.keys, own.values, cross[layer_idx].keys, cross[layer_idx].values
        return own.keys, own.values


class SinkCache(LegacyDynamicCache):
    """Stands for a class that was removed: no checkpoint makes one by itself."""

    def __init__(self, window_length: int, num_sink_tokens: int) -> None:
        raise NotImplementedError("SinkCache was removed from transformers")


def speak_old(cache: Cache) -> Cache:
    """Teach a cache that transformers made the old methods, in place, and return it."""
    if type(cache) is DynamicCache:
        cache.__class__ = LegacyDynamicCache
    elif type(cache) is StaticCache:
        cache.__class__ = LegacyStaticCache
    elif type(cache) is EncoderDecoderCache:
        cache.__class__ = LegacyEncoderDecoderCache
        for inner in (cache.self_attention_cache, cache.cross_attention_cache):
            speak_old(inner)
    return cache


def legacy_api(hooks: Hooks) -> None:
    """Hand the checkpoint caches that know the old methods."""
    home = "transformers.cache_utils"
    hooks.replace[(home, "DynamicCache")] = lambda real: LegacyDynamicCache
    hooks.replace[(home, "StaticCache")] = lambda real: LegacyStaticCache
    hooks.replace[(home, "EncoderDecoderCache")] = lambda real: LegacyEncoderDecoderCache
    for module in (home, "transformers"):
        hooks.add_names(module, SinkCache=lambda: SinkCache)
