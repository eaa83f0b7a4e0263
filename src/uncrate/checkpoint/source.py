"""WHERE, parsed once into a value that prints back to its text; no I/O."""

from __future__ import annotations
