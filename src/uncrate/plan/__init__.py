"""From what is there to what will be done: every decision, and everything that is wrong, before anything runs."""

from uncrate.plan.make import make_plan
from uncrate.plan.values import (
    DTYPES,
    FLOATS,
    ITEM_BYTES,
    ROUTES,
    TASKS,
    Assignment,
    LeftOut,
    Options,
    Plan,
    check,
)

__all__ = [
    "DTYPES",
    "FLOATS",
    "ITEM_BYTES",
    "ROUTES",
    "TASKS",
    "Assignment",
    "LeftOut",
    "Options",
    "Plan",
    "check",
    "make_plan",
]
