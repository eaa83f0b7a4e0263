"""Read a checkpoint's own code, approve exactly what was read, run it.

python examples/custom_code.py WHERE          shows the review and stops
python examples/custom_code.py WHERE SHA      approves the closure whose hash starts so, then opens
"""

import sys

import uncrate
from uncrate.errors import NotApproved
from uncrate.trust.surface import review


def main(where: str, sha: str = "") -> None:
    # Files, entry points, what runs on import and what when called: read from syntax trees, nothing has run.
    found = review(where)
    print(found.to_text())
    if sha:
        # The digits prove that this state was reviewed. The approval is written into uncrate.lock.
        print(uncrate.trust(where, sha=sha, note="read in examples/custom_code.py").why)
    try:
        opened = uncrate.open(where)
    except NotApproved as error:
        print(error)
        return
    print(f"{type(opened.model).__name__} is open; ran {', '.join(opened.plan.code_will_run)}")
    print(f"weights equal the file's: {len(opened.filled.loaded)} tensors, {len(opened.filled.tied)} tied")


if __name__ == "__main__":
    main(*sys.argv[1:])
