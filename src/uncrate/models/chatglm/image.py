"""A picture, from whatever the user has to the numbers that the vision tower reads."""

from __future__ import annotations

import stat
import struct
import threading
import warnings
import zlib
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from uncrate.errors import PictureError, escape

Picture: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[Any]"

# Decoders that a picture may reach. Others exist in Pillow that nobody sends to a chat, or that start programs (EPS
# runs Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Room for a 50-megapixel camera. Pillow takes 4 bytes a pixel, and twice that where a picture is turned or converted.
MAX_PIXELS = 55_000_000
MAX_FILE_BYTES = 1 << 28

# CLIP's, with which the vision tower was trained.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_BROKEN = (OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, MemoryError)
_BROKEN_FORMAT = (struct.error, zlib.error, Image.DecompressionBombError)


class _Quiet:
    """Keeps Pillow's warnings (odd metadata, sizes that are refused anyway) from the user, who is told by an error.

    `warnings.catch_warnings` alone is not safe in threads: one that ends late would put back what another had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_QUIET = _Quiet()


def open_picture(picture: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return `picture` as an RGB PIL image, upright.

    Takes a path, the bytes of a file, a PIL image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8,
    uint16, bool, or floats from 0 to 1. Transparency is dropped, not blended, as the original's `convert("RGB")`
    does: the model saw training pictures this way, and equal pictures must give equal numbers. Of an animation the
    first frame counts. 16-bit grey is scaled. Raises PictureError for what is missing, broken, too large (`max_pixels`
    before decoding) or no picture.
    """
    if isinstance(picture, np.ndarray):
        return _from_array(picture, max_pixels)
    if isinstance(picture, Image.Image):
        return _finish(picture, "picture", max_pixels)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(picture), "picture", max_pixels)
    if isinstance(picture, (str, PathLike)):
        path = Path(fspath(picture))
        return _from_bytes(_read(path), escape(str(path), 400), max_pixels)
    raise PictureError(
        f"a picture cannot be a {type(picture).__name__}",
        next="give a path, the bytes of a file, a PIL image or an array [height, width, 3] of uint8",
    )


def pixels(picture: Picture, size: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Return `picture` as float32 [3, size, size]: bicubic to a square, 0 to 1, less CLIP's mean, over its deviation.

    The steps and their order in float32 are the original's (PIL's resize, ToTensor, Normalize), bit for bit.
    """
    square = open_picture(picture, max_pixels=max_pixels).resize((size, size), Image.Resampling.BICUBIC)
    unit_CHW = np.asarray(square, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
    mean_C = np.array(MEAN, dtype=np.float32)[:, None, None]
    std_C = np.array(STD, dtype=np.float32)[:, None, None]
    return np.ascontiguousarray((unit_CHW - mean_C) / std_C)


def _read(path: Path) -> bytes:
    where = escape(str(path), 400)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise PictureError(f"this is {kind}, not a picture", where=where)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise PictureError("there is no such picture", where=where, next="check the path") from error
    except (OSError, ValueError) as error:
        raise PictureError("the picture cannot be read", where=where, why=escape(str(error))) from error
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", where=where)
    return data


def _from_bytes(data: bytes, where: str, max_pixels: int) -> Image.Image:
    if not data:
        raise PictureError("the picture is empty", where=where, next="download or save it again")
    try:
        with _QUIET, Image.open(BytesIO(data), formats=FORMATS) as image:
            return _finish(image, where, max_pixels, owned=True)
    except UnidentifiedImageError as error:
        raise PictureError(
            "this is not a picture that can be read",
            where=where,
            why=f"{_guess(data)}; the formats are PNG, JPEG, WebP, GIF, BMP, TIFF and PPM",
            next="convert it to PNG or JPEG",
        ) from error
    except (*_BROKEN, *_BROKEN_FORMAT) as error:
        raise _broken(error, where) from error


def _guess(data: bytes) -> str:
    """Say what the file is instead, where its first bytes tell."""
    head = data[:16]
    if head[4:8] == b"ftyp":
        return "it is HEIC, AVIF or a video"
    if head.startswith(b"version https:/"):
        return "it is a Git LFS pointer, run `git lfs pull`"
    known = {b"%PDF": "a PDF", b"%!PS": "PostScript", b"<svg": "SVG", b"<!DO": "a web page", b"<htm": "a web page"}
    return f"it is {known[head[:4]]}" if head[:4] in known else "its first bytes are of no picture format"


def _finish(image: Image.Image, where: str, max_pixels: int, *, owned: bool = False) -> Image.Image:
    """Check the size before anything is decoded, then decode, turn upright and bring to RGB.

    An `owned` picture is changed in place: a copy of a large one costs as much memory again.
    """
    width, height = image.size
    _check_size(width, height, where, max_pixels)
    try:
        with _QUIET:
            image.load()
            if owned:
                ImageOps.exif_transpose(image, in_place=True)
                upright = image
            else:
                upright = ImageOps.exif_transpose(image)
            upright = _eight_bit(upright)
            return upright if upright.mode == "RGB" else upright.convert("RGB")
    except (*_BROKEN, *_BROKEN_FORMAT) as error:
        raise _broken(error, where) from error


def _check_size(width: int, height: int, where: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"the picture is {width} x {height} pixels, which is none", where=where)
    if width * height > max_pixels:
        raise PictureError(
            f"the picture is {width} x {height} pixels, more than {max_pixels} in all",
            where=where,
            why="it would fill the memory; the model sees it at a much smaller size anyhow",
            next="make it smaller",
        )


def _broken(error: BaseException, where: str) -> PictureError:
    if isinstance(error, Image.DecompressionBombError):
        return PictureError("the picture is too large", where=where, why=escape(str(error)), next="make it smaller")
    return PictureError("the picture is broken", where=where, why=escape(str(error)), next="download or save it again")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale deep grey to 8 bits; Pillow's own conversion cuts everything above 255 to white."""
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(_scaled_16(grey))
    if image.mode == "F":
        grey_f = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 1.0 if grey_f.max(initial=0.0) <= 1.0 else 255.0
        return Image.fromarray(np.rint(np.clip(grey_f / top, 0, 1) * 255).astype(np.uint8))
    return image


def _scaled_16(values: NDArray[Any]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = (
            "move the channels to the end: array.transpose(1, 2, 0)"
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else None
        )
        raise PictureError(
            f"an array of shape {list(array.shape)} is not a picture",
            why="a picture is [height, width], [height, width, 3] or [height, width, 4]",
            next=hint,
        )
    _check_size(array.shape[1], array.shape[0], "array", max_pixels)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _scaled_16(array)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError("an array of floats must hold values from 0 to 1", next="divide by 255, or give uint8")
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(
            f"an array of {array.dtype} is not a picture", next="give uint8, uint16, bool, or floats from 0 to 1"
        )
    if array.ndim == 3:
        array = array[:, :, 0] if array.shape[2] == 1 else array[:, :, :3]
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
