"""Every keyword of transformers' `from_pretrained`, and what becomes of it here: none vanishes.

honoured     it does what transformers says
translated   it has the same effect by another of our options
accepted     it asks for what happens anyway, or for nothing that exists here; the sentence says which
refused      it would change what is loaded in a way the road does not offer; the sentence says what to do instead
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from uncrate.errors import UsageError, escape

HONOURED, TRANSLATED, ACCEPTED, REFUSED = "honoured", "translated", "accepted", "refused"
CONFIG, MODEL, TOKENIZER = "config", "model", "tokenizer"
_ALL = (CONFIG, MODEL, TOKENIZER)


@dataclass(frozen=True)
class Keyword:
    """One keyword: its verdict, a sentence, which loads take it, and for a refused one the values that ask nothing."""

    verdict: str
    says: str
    loads: tuple[str, ...] = (MODEL,)
    harmless: tuple[Any, ...] = (None, False)


KEYWORDS: Mapping[str, Keyword] = {
    # Where it is
    "revision": Keyword(TRANSLATED, "the same as owner/name@revision; resolved to one commit, once", _ALL),
    "code_revision": Keyword(
        ACCEPTED, "code is pinned by the lock, by content; another revision of it is another approval", _ALL
    ),
    "subfolder": Keyword(TRANSLATED, "the same as Options.subfolder", _ALL),
    "cache_dir": Keyword(HONOURED, "the hub cache of this load", _ALL),
    "local_files_only": Keyword(HONOURED, "nothing is asked of the hub", _ALL),
    "force_download": Keyword(HONOURED, "files are fetched again although the cache holds them", _ALL),
    "token": Keyword(HONOURED, "a token, True for the stored one, False for none", _ALL),
    "use_auth_token": Keyword(TRANSLATED, "the deprecated name of token", _ALL),
    "proxies": Keyword(REFUSED, "set HTTPS_PROXY in the environment, which every request honours", _ALL),
    "resume_download": Keyword(ACCEPTED, "downloads always resume", _ALL, ()),
    "mirror": Keyword(REFUSED, "set HF_ENDPOINT in the environment", _ALL),
    "tqdm_class": Keyword(REFUSED, "progress is shown on a terminal and nowhere else", _ALL),
    # Whether code runs
    "trust_remote_code": Keyword(
        TRANSLATED, "True lets approved code run and approves nothing; False keeps approved code from running", _ALL
    ),
    # What it becomes
    "config": Keyword(HONOURED, "a config object, or a path whose config.json is used instead", (MODEL, TOKENIZER)),
    "dtype": Keyword(TRANSLATED, "Options.dtype; 'auto' is config.json's, else what most tensors are stored in",
                     (CONFIG, MODEL)),
    "torch_dtype": Keyword(TRANSLATED, "the older name of dtype", (CONFIG, MODEL)),
    "attn_implementation": Keyword(
        HONOURED, "eager or sdpa; both run torch's scaled_dot_product_attention", (CONFIG, MODEL)
    ),
    "experts_implementation": Keyword(REFUSED, "the model has no experts", (CONFIG, MODEL)),
    "quantization_config": Keyword(
        HONOURED, "set aside while the config is read, given to transformers' quantizer for the model"
    ),
    "generation_config": Keyword(HONOURED, "used in place of generation_config.json"),
    "device_map": Keyword(HONOURED, "'auto', a device, or a dict; the vision tower is one unit that is never split"),
    "max_memory": Keyword(HONOURED, "bounds what device_map='auto' may put on each device"),
    "offload_folder": Keyword(HONOURED, "where a device_map's 'disk' goes"),
    "offload_buffers": Keyword(HONOURED, "whether buffers go where their module's parameters go"),
    "offload_state_dict": Keyword(ACCEPTED, "weights are mapped from their files and never copied whole"),
    "low_cpu_mem_usage": Keyword(ACCEPTED, "weights are always mapped, never loaded twice"),
    "_fast_init": Keyword(ACCEPTED, "nothing is initialised that a file fills"),
    "empty_init": Keyword(ACCEPTED, "the original ChatGLM code's name for the same"),
    "disable_mmap": Keyword(HONOURED, "True copies the weights out of the mapping"),
    "output_loading_info": Keyword(HONOURED, "returns (model, info): what was missing and what was left over"),
    "ignore_mismatched_sizes": Keyword(REFUSED, "a tensor of another shape is an error; change the file or the config"),
    "key_mapping": Keyword(REFUSED, "tensors are taken by the names they have"),
    "state_dict": Keyword(REFUSED, "build by from_config(config) and call model.load_state_dict(state_dict)"),
    "variant": Keyword(REFUSED, "only the weights named model*.safetensors are read"),
    "use_safetensors": Keyword(REFUSED, "pickled weights are not read by this class", harmless=(None, True)),
    "weights_only": Keyword(REFUSED, "nothing but tensors is ever read", harmless=(None, True)),
    "gguf_file": Keyword(REFUSED, "GGUF files are not read; give the safetensors checkpoint", _ALL),
    "from_tf": Keyword(REFUSED, "TensorFlow weights are not read"),
    "from_flax": Keyword(REFUSED, "Flax weights are not read"),
    "fusion_config": Keyword(REFUSED, "the native model has nothing to fuse"),
    "use_kernels": Keyword(REFUSED, "kernels from the hub are code of another repository and are not fetched"),
    "kernel_config": Keyword(REFUSED, "kernels from the hub are code of another repository and are not fetched"),
    "allow_all_kernels": Keyword(REFUSED, "kernels from the hub are code of another repository and are not fetched"),
    "distributed_config": Keyword(REFUSED, "open the model, then shard it with FSDP2 (accelerate)"),
    "device_mesh": Keyword(REFUSED, "open the model, then shard it with FSDP2 (accelerate)"),
    "tp_plan": Keyword(REFUSED, "the family has no tensor-parallel plan"),
    "tp_size": Keyword(REFUSED, "the family has no tensor-parallel plan"),
    # Adapters
    "adapter_name": Keyword(HONOURED, "the name an adapter gets on the model, 'default' if left out"),
    "adapter_kwargs": Keyword(REFUSED, "give the adapter as the model, with base= where it names none",
                              harmless=(None, {})),
    "base": Keyword(HONOURED, "ours: the model under an adapter, in place of the one that it names", _ALL),
    # How the call answers
    "return_unused_kwargs": Keyword(HONOURED, "returns (config, what was no attribute of it)", (CONFIG,)),
    "use_fast": Keyword(ACCEPTED, "there is one tokenizer, and it is fast", (TOKENIZER,)),
    "tokenizer_type": Keyword(REFUSED, "the checkpoint's files say which tokenizer it is", (TOKENIZER,)),
    "mistral_format": Keyword(REFUSED, "the files of transformers' own format are read", (TOKENIZER,)),
    "_from_auto": Keyword(ACCEPTED, "transformers' note to itself", _ALL),
    "_from_pipeline": Keyword(ACCEPTED, "transformers' note to itself", _ALL),
    "_commit_hash": Keyword(ACCEPTED, "the commit is resolved by the load itself", _ALL),
    "user_agent": Keyword(ACCEPTED, "transformers' note to the hub", _ALL),
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A call's keywords, sorted: `known` are of the table and wanted, `others` are not in it."""

    known: Mapping[str, Any]
    others: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a known keyword's value."""
        return self.known.get(name, default)


def sort_keywords(given: Mapping[str, Any], load: str) -> Given:
    """Sort the keywords of a `from_pretrained` call of this kind ("config", "model", "tokenizer").

    Raises UsageError with every refused keyword. Keywords of another kind of load count as others.
    """
    known: dict[str, Any] = {}
    others: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in given.items():
        keyword = KEYWORDS.get(name)
        if keyword is None or load not in keyword.loads:
            others[name] = value
        elif keyword.verdict == REFUSED and not _harmless(value, keyword):
            faults.append(f"{name}={escape(repr(value))} is refused: {keyword.says}")
        else:
            known[name] = value
    if faults:
        raise UsageError("from_pretrained: " + "; ".join(faults), next="leave out what is refused")
    return Given(known, others)


def _harmless(value: Any, keyword: Keyword) -> bool:
    return any(value is plain or (isinstance(plain, dict) and value == plain) for plain in keyword.harmless)


def refuse_unknown(names: Iterable[str], load: str, attributes: Iterable[str] = ()) -> None:
    """Raise UsageError for keywords that nothing knows, each with the nearest that is known."""
    candidates = [name for name, keyword in KEYWORDS.items() if load in keyword.loads and not name.startswith("_")]
    candidates += [name for name in attributes if not name.startswith("_")]
    faults = []
    for name in names:
        keyword = KEYWORDS.get(name)
        if keyword is not None:
            faults.append(f"{name} belongs to the load of a {' or a '.join(keyword.loads)}")
            continue
        near = difflib.get_close_matches(name, candidates, 1)
        faults.append(f"{escape(name)} is not known" + (f"; {near[0]} is" if near else ""))
    if faults:
        raise UsageError("from_pretrained: " + "; ".join(faults), next="correct the name, or leave it out")


def token_of(given: Given) -> str | bool | None:
    """Return the token of a call; `use_auth_token` is its deprecated name. Raises UsageError for both."""
    old, token = given.get("use_auth_token"), given.get("token")
    if old is None:
        return token  # type: ignore[no-any-return]
    if token is not None:
        raise UsageError("token and use_auth_token are both given", next="give token alone")
    warnings.warn("use_auth_token is deprecated, its name is token", FutureWarning, stacklevel=5)
    return old  # type: ignore[no-any-return]


def dtype_of(given: Given) -> str:
    """Return the dtype of a call as Options takes it; "auto" where none is given. Raises UsageError."""
    value = given.get("dtype")
    value = given.get("torch_dtype") if value is None else value
    if value is None:
        return "auto"
    if isinstance(value, Mapping):
        raise UsageError("dtype: one dtype holds for the whole model", next='give dtype="bfloat16"')
    text = value if isinstance(value, str) else str(value)
    name = text.removeprefix("torch.")
    return {"float": "float32", "half": "float16", "double": "float64"}.get(name, name)


def path_text(where: str | os.PathLike[str]) -> str:
    """Return WHERE as text, for messages."""
    return os.fspath(where) if isinstance(where, str | os.PathLike) else repr(where)
