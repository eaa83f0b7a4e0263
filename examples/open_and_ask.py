"""Open a checkpoint, see what will be done, ask about a picture.

python examples/open_and_ask.py [WHERE] [PICTURE] [QUESTION]    nano, its picture of three digits, "What digit is red?"
"""

import sys
from pathlib import Path

import uncrate


def main(where: str = "nano", picture: str = "", question: str = "What digit is red?") -> None:
    picture = picture or str(Path(uncrate.__file__).parent / "nano" / "pictures" / "three-digits.png")

    # Read-only: names, headers and JSON. No weight is read, no code runs, torch is not imported.
    plan = uncrate.plan(where)
    for label, value in plan.sheet():
        print(f"{label:>15}  {value}")

    # Everything that is wrong was told above; this does what the plan says.
    opened = uncrate.open(where)
    messages = [{"role": "user", "image": picture, "content": question}]
    print(f"\n{question}")
    stream = opened.stream(messages, max_new_tokens=32, temperature=0)
    for piece in stream:
        print(piece, end="", flush=True)
    print(f"\n({stream.result.completion_tokens} tokens, {stream.result.finish_reason})")


if __name__ == "__main__":
    main(*sys.argv[1:])
