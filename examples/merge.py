"""Fold a LoRA adapter into its base: python merge.py ADAPTER OUT [BASE]

The checkpoint in OUT needs neither of the two any more; it is opened and compared before OUT appears.
"""

import sys

import uncrate
from uncrate.export.merging import merge


def main(adapter: str, out: str, base: str | None = None) -> None:
    # Nothing is read yet: this is what would be done, and everything that is wrong with it.
    plan = uncrate.plan(adapter, uncrate.Options(base=base))
    for label, value in plan.sheet():
        print(f"{label:16}{value}")

    merged = merge(adapter, out, base=base)
    print(f"\nwrote {merged.written.tensors} tensors, {merged.written.changed} of them changed by the adapter")
    if merged.proof is not None:
        print(merged.proof.describe())


if __name__ == "__main__":
    main(*sys.argv[1:])
