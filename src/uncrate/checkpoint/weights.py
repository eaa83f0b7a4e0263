"""Which files hold the weights, and every tensor in them: by index, by single file, or by a full set of shards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from uncrate.checkpoint.facts import NO_WEIGHTS, FileEntry, TensorEntry, Weights
from uncrate.checkpoint.files import Files
from uncrate.checkpoint.header import Header, fault_list, name_fault, read_header
from uncrate.checkpoint.jsonfile import INDEX_LIMIT, kind, parse_object, pointer, thaw
from uncrate.checkpoint.paths import path_fault
from uncrate.errors import MalformedWeights, escape

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_SHARDS = 10_000
_SHARD = re.compile(r"(.+)-(\d{5,6})-of-(\d{5,6})\.safetensors")
_PICKLE_SHARD = re.compile(r"pytorch_model-\d{5,6}-of-\d{5,6}\.bin")


def read_weights(files: Files, notes: list[str], *, adapter: bool = False) -> Weights:
    """Return the weights among the root-level `files`, from headers and the index alone; choices made go to `notes`.

    The order is transformers': one safetensors file, safetensors shards, pickles. Of an adapter folder, the adapter's
    own file. Raises MalformedWeights that tells every fault of all files together, and HubError.
    """
    here = {entry.path: entry for entry in files.entries() if "/" not in entry.path}
    if adapter:
        if ADAPTER in here:
            return _whole(files, [here[ADAPTER]])
        return _pickles([here[name] for name in ("adapter_model.bin",) if name in here])
    if SINGLE in here:
        _note_unused(here, notes)
        return _whole(files, [here[SINGLE]])
    if INDEX in here:
        return _indexed(files, here, notes)
    shards = {name: entry for name, entry in here.items() if _is_model_shard(name)}
    if shards:
        return _unindexed(files, shards, notes)
    pickles = [entry for name, entry in here.items() if name == PICKLES[0] or _PICKLE_SHARD.fullmatch(name)]
    if pickles:
        return _pickles(pickles)
    others = sorted(
        name
        for name in here
        if name.endswith((".safetensors", ".gguf", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx"))
    )
    if others:
        notes.append(
            f"not read as weights: {', '.join(map(escape, others[:5]))}: only {SINGLE} or its numbered shards are"
        )
    return NO_WEIGHTS


def _is_model_shard(name: str) -> bool:
    found = _SHARD.fullmatch(name)
    return found is not None and found[1] == "model"


def _pickles(entries: list[FileEntry]) -> Weights:
    return Weights("pickle", tuple(entries), MappingProxyType({})) if entries else NO_WEIGHTS


def _note_unused(here: Mapping[str, FileEntry], notes: list[str]) -> None:
    unused = sorted(name for name in here if name == INDEX or _is_model_shard(name))
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        notes.append(f"{SINGLE} is used; {escape(unused[0])}{more} beside it not")


def _whole(files: Files, entries: list[FileEntry]) -> Weights:
    faults: list[str] = []
    headers = _read_headers(files, entries, faults)
    return _join(files, entries, headers, faults)


def _unindexed(files: Files, shards: Mapping[str, FileEntry], notes: list[str]) -> Weights:
    """Shards whose index is missing still say everything themselves, when the set is whole."""
    totals = {found[3] for name in shards if (found := _SHARD.fullmatch(name))}
    total = int(next(iter(totals))) if len(totals) == 1 else 0
    if not 0 < total <= MAX_SHARDS or len(shards) != total:
        raise files_fault(
            files,
            f"{INDEX} is missing, and the {len(shards)} shards are not a whole set",
            next="copy or download the index and every shard",
        )
    notes.append(f"{INDEX} is missing; the {total} shards are whole and are read without it")
    return _whole(files, [shards[name] for name in sorted(shards)])


def files_fault(files: Files, what: str, *, next: str | None = None) -> MalformedWeights:
    """Return the error for a fault of the checkpoint's weights as a whole."""
    return MalformedWeights(what, where=escape(str(files.source)), next=next)


@dataclass
class _Index:
    """What the index says: tensor name to shard name, and the metadata that is text."""

    shard_of: Mapping[str, str]
    metadata: Mapping[str, str]


def _indexed(files: Files, here: Mapping[str, FileEntry], notes: list[str]) -> Weights:
    faults: list[str] = []
    index = _read_index(parse_object(files.read(INDEX, INDEX_LIMIT), INDEX, limit=INDEX_LIMIT), faults)
    wanted = sorted(set(index.shard_of.values()))
    absent = [name for name in wanted if name not in here]
    for name in absent:
        count = sum(1 for shard in index.shard_of.values() if shard == name)
        tensors = "tensor" if count == 1 else "tensors"
        faults.append(f"{escape(name)} is not there, and the index puts {count:,} {tensors} in it")
    if absent and files.partial:
        # What the cache lacks is no fault of the checkpoint: it is there to be downloaded.
        raise files.missing(*absent)
    for name in sorted(name for name in here if _is_model_shard(name) and name not in wanted):
        faults.append(f"{escape(name)} is a shard that the index does not name")
    strays = sorted(
        name for name in here if name.endswith(".safetensors") and name not in wanted and not _is_model_shard(name)
    )
    if strays:
        notes.append(f"not named by the index and not read: {', '.join(map(escape, strays[:5]))}")
    entries = [here[name] for name in wanted if name in here]
    headers = _read_headers(files, entries, faults)
    _compare(index, headers, faults)
    return _join(files, entries, headers, faults, index.metadata)


def _read_index(content: Mapping[str, Any], faults: list[str]) -> _Index:
    shard_of: dict[str, str] = {}
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, Mapping):
        what = (
            "/weight_map is missing"
            if weight_map is None
            else f"/weight_map must be an object, and is {kind(weight_map)}"
        )
        raise MalformedWeights(what, where=INDEX)
    for name, shard in weight_map.items():
        at = pointer("weight_map", name)
        fault = name_fault(name)
        if fault:
            faults.append(f"{at}: {fault}")
        elif not isinstance(shard, str):
            faults.append(f"{at} must be a file name, and is {escape(thaw(shard))}")
        elif path_fault(shard) or "/" in shard:
            why = path_fault(shard) or "it lies in another folder"
            faults.append(f"{at} must be a file of the folder, and is {escape(shard)}: {why}")
        elif not shard.endswith(".safetensors"):
            faults.append(f"{at} must be a .safetensors file, and is {escape(shard)}")
        else:
            shard_of[name] = shard
    if not weight_map:
        faults.append("/weight_map is empty")
    if len(set(shard_of.values())) > MAX_SHARDS:
        raise MalformedWeights(
            f"the index names {len(set(shard_of.values())):,} files, and at most {MAX_SHARDS:,} are read", where=INDEX
        )
    metadata = content.get("metadata")
    texts = {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, Mapping) else {}
    return _Index(MappingProxyType(shard_of), MappingProxyType(texts))


def _compare(index: _Index, headers: Mapping[str, Header], faults: list[str]) -> None:
    """Hold the index against the headers that could be read, both ways."""
    held: dict[str, list[str]] = {}
    for file, header in headers.items():
        for tensor in header.tensors:
            held.setdefault(tensor.name, []).append(file)
    for name, shard in index.shard_of.items():
        found = held.get(name, [])
        if shard in headers and shard not in found:
            place = f", it is in {escape(found[0])}" if found else ""
            faults.append(f"{pointer('weight_map', name)} is {escape(shard)}, which does not hold it{place}")
    for name, found in held.items():
        if name not in index.shard_of:
            faults.append(f"tensor {escape(name)} in {escape(found[0])} is not in the index")


def _read_headers(files: Files, entries: list[FileEntry], faults: list[str]) -> dict[str, Header]:
    """Read the headers side by side where each costs a request; faults are collected, other errors end it."""

    def one(entry: FileEntry) -> Header | MalformedWeights:
        try:
            return read_header(lambda start, end: files.read_range(entry.path, start, end), entry.path, entry.size)
        except MalformedWeights as error:
            return error

    files.require([entry.path for entry in entries])
    if files.commit is None or len(entries) < 2:
        results = [one(entry) for entry in entries]
    else:
        # Only the hub needs threads, and a folder is read sooner than they are imported.
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(8, thread_name_prefix="uncrate-headers")
        try:
            results = list(pool.map(one, entries))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    headers: dict[str, Header] = {}
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, Header):
            headers[entry.path] = result
        else:
            # One line a fault, indented under its file; what to do follows once, for all of them.
            faults.append(f"{result.where}: {result.what}".replace("\n  - ", "\n      - "))
    return headers


def _join(
    files: Files,
    entries: Iterable[FileEntry],
    headers: Mapping[str, Header],
    faults: list[str],
    extra: Mapping[str, str] | None = None,
) -> Weights:
    tensors: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = dict(extra or {})
    for header in headers.values():
        metadata |= header.metadata
        for tensor in header.tensors:
            twin = tensors.setdefault(tensor.name, tensor)
            if twin is not tensor:
                faults.append(
                    f"tensor {escape(tensor.name)} is in {escape(twin.file)} and again in {escape(tensor.file)}"
                )
    if faults:
        pointers = any("Git LFS pointer" in fault for fault in faults)
        fix = "git lfs install && git lfs pull" if pointers else "copy or download the checkpoint again"
        raise files_fault(files, fault_list(faults, what="faults in the weights"), next=fix)
    return Weights("safetensors", tuple(entries), MappingProxyType(tensors), MappingProxyType(metadata))
