"""Take a Linux process's right to write, to talk, and to start programs away, by Landlock and seccomp, for good.

Only what is denied from now on: open files stay open, reading goes on. Nothing here needs a package or a privilege.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import struct
import sys

PR_SET_NO_NEW_PRIVS = 38
# Landlock's system calls have one number everywhere. The rights: everything but reading a file and listing a folder.
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
WRITE_RIGHTS = {1: 0x1FF3, 2: 0x3FF3, 3: 0x7FF3, 5: 0xFFF3}
CONNECT_AND_BIND = 0b11


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split())


# System calls by architecture: the number of seccomp(2), the audit architecture, open and openat, and what is denied:
# talking; starting, stopping and looking into programs; changing files and folders; changing the system.
ARCHITECTURES: dict[str, tuple[int, int, int | None, int, tuple[int, ...]]] = {
    "x86_64": (
        317,
        0xC000003E,
        2,
        257,
        _numbers(
            "41 42 43 44 46 49 50 288 307 59 322 57 58 101 62 200 234 310 311 "
            "87 263 82 264 316 83 258 84 85 90 91 268 452 92 93 94 260 76 77 86 265 88 266 133 259 "
            "132 235 261 280 188 189 190 197 198 199 285 "
            "165 166 155 272 308 321 323 425 426 427 437 248 249 250 175 313 246 169 424 434 438 298"
        ),
    ),
    "aarch64": (
        277,
        0xC00000B7,
        None,
        56,
        _numbers(
            "198 203 202 206 211 200 201 242 269 221 281 117 129 130 131 270 271 "
            "35 38 276 34 52 53 452 54 55 45 46 37 36 33 88 5 6 7 14 15 16 47 "
            "40 39 41 97 268 280 282 425 426 427 437 217 218 219 105 273 104 142 424 434 438 241"
        ),
    ),
}
WRITING_FLAGS = 0x1 | 0x2 | 0x40 | 0x200  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
DENY, ALLOW = 0x00050000 | 1, 0x7FFF0000  # the error EPERM; go on


def close_down() -> dict[str, list[str]]:
    """Deny what can be denied from here on; return by what each of writes, network and programs is held back."""
    held: dict[str, list[str]] = {"writes": [], "network": [], "programs": []}
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    held["writes"].append("rlimit")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return held
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return held
    version = _landlock(libc)
    if version:
        held["writes"].append(f"landlock {version}")
        held["programs"].append(f"landlock {version}")
        if version >= 4:
            held["network"].append(f"landlock {version} (TCP)")
    if _seccomp(libc):
        for names in held.values():
            names.append("seccomp")
    return held


def _landlock(libc: ctypes.CDLL) -> int:
    """Restrict this process by Landlock with no exceptions; return the version that holds, 0 for none."""
    version = int(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    if version < 1:
        return 0
    rights = WRITE_RIGHTS[max(known for known in WRITE_RIGHTS if known <= version)]
    attributes = struct.pack("QQ", rights, CONNECT_AND_BIND) if version >= 4 else struct.pack("Q", rights)
    ruleset = int(libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
    if ruleset < 0 or libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) != 0:
        return 0
    return version


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Install the filter in every thread of this process; return whether it holds."""
    known = ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    number, architecture, plain_open, open_at, denied = known
    code = filter_code(architecture, plain_open, open_at, denied)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC.
    return int(libc.syscall(number, 1, 1, ctypes.byref(program))) == 0


def filter_code(architecture: int, plain_open: int | None, open_at: int, denied: tuple[int, ...]) -> bytes:
    """Return the filter as classic BPF: another architecture, a denied number and opening to write end in EPERM."""
    load, jump_equal, jump_above, jump_bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06

    def step(what: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", what, yes, no, value)

    code = [step(load, 4), step(jump_equal, architecture, 1, 0), step(answer, DENY), step(load, 0)]
    # Numbers above this bit are the x32 calling convention, which would pass under every comparison below.
    code += [step(jump_above, 0x40000000, 0, 1), step(answer, DENY)]
    for number in denied:
        code += [step(jump_equal, number, 0, 1), step(answer, DENY)]
    for opening, flags in ((plain_open, 24), (open_at, 32)):
        if opening is not None:
            code += [step(jump_equal, opening, 0, 4), step(load, flags), step(jump_bits, WRITING_FLAGS, 0, 1)]
            code += [step(answer, DENY), step(answer, ALLOW)]
    code.append(step(answer, ALLOW))
    return b"".join(code)
