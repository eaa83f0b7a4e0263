"""Which devices this machine has and how much memory is free, without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from uncrate import settings
from uncrate.errors import UsageError
from uncrate.families.foreign import package_folder


@dataclass(frozen=True)
class Device:
    """One device as torch names it ("cpu", "cuda:0", "mps"), its model, and its memory in bytes (None: unknown)."""

    name: str
    model: str
    total: int | None
    free: int | None


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def torch_version() -> tuple[str, str | None] | None:
    """Return torch's version and the CUDA version it was built for (None: a CPU build), or None when not installed."""
    folder = package_folder("torch")
    path = folder / "version.py" if folder else None
    if path is None or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    version = re.search(r"__version__\s*=\s*'([^']+)'", text)
    cuda = re.search(r"^cuda\b[^=]*=\s*'([^']+)'", text, re.MULTILINE)
    return (version.group(1) if version else "unknown", cuda.group(1) if cuda else None)


def read_devices() -> tuple[Device, ...]:
    """Return the devices that the installed torch can use, best first, the CPU last."""
    devices: list[Device] = []
    version = torch_version()
    if version is not None and version[1] is not None:
        devices += _nvidia()
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        devices.append(Device("mps", "Apple GPU", None, None))
    devices.append(_cpu())
    return tuple(devices)


def choose_device(name: str, devices: tuple[Device, ...]) -> Device:
    """Return the device that an option names; "auto" is the best one. Raises UsageError for one that is not there."""
    if name == "auto":
        return devices[0]
    wanted = "cuda:0" if name == "cuda" else name
    for device in devices:
        if device.name == wanted:
            return device
    have = ", ".join(device.name for device in devices)
    raise UsageError(f"no device {name!r} here; there is {have}", next="leave --device out, or see `uncrate doctor`")


def _cpu() -> Device:
    total = free = None
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        values = dict(re.findall(r"^(\w+):\s+(\d+) kB", meminfo.read_text(encoding="ascii"), re.MULTILINE))
        total, free = int(values.get("MemTotal", 0)) * 1024, int(values.get("MemAvailable", 0)) * 1024
    return Device("cpu", f"{os.cpu_count()} cores, {platform.machine()}", total or None, free or None)


def _nvidia() -> list[Device]:
    """Ask NVML; an unusable driver means no devices, as it does for torch."""
    visible = settings.visible_cuda_devices()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found: list[Device] = []
        for index in range(count.value):
            if visible is not None and str(index) not in visible:
                continue
            handle, memory, model = ctypes.c_void_p(), _NvmlMemory(), ctypes.create_string_buffer(96)
            if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
                continue
            nvml.nvmlDeviceGetName(handle, model, 96)
            nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            # torch numbers only the visible ones.
            found.append(
                Device(f"cuda:{len(found)}", model.value.decode("utf-8", "replace"), memory.total, memory.free)
            )
        return found
    finally:
        nvml.nvmlShutdown()
