"""Python source from a checkpoint, turned into text and a syntax tree without running it or trusting it.

CPython's own parser is not built for hostile text: a chain of a hundred thousand operators ends the process when
somebody raised the recursion limit, and one long f-string takes a minute. So a plain scan over the text bounds
tokens and nesting first, and only then is `ast.parse` called.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings

from uncrate.errors import CodeError, escape

MAX_BYTES = 1 << 20
MAX_TOKENS = 150_000
MAX_CHAIN = 800
MAX_ELIF = 800
MAX_FSTRING = 16_384

_COOKIE = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_UTF8 = {"utf-8", "utf8", "utf-8-sig", "utf_8", "u8", "utf"}

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*+)
  | (?P<string>[A-Za-z]{0,2}(?:
        \"{3}(?>[^\\"]++|\\.|"(?!""))*+\"{3}
      | '{3}(?>[^\\']++|\\.|'(?!''))*+'{3}
      | "(?>[^\\"\n]++|\\.)*+"
      | '(?>[^\\'\n]++|\\.)*+'))
  | (?P<broken>["'])
  | (?P<word>\w++)
  | (?P<join>\\\n)
  | (?P<newline>\n)
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<comma>[,;])
  | (?P<operator>[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_CHAIN_WORDS = frozenset({"not", "and", "or", "if", "else", "for", "in", "is", "lambda", "await", "yield", "async"})


class Unparsable(Exception):
    """The text is not Python of this interpreter's version; `line` is where, None when unknown."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def decode_source(data: bytes, path: str) -> str:
    """Return the text of a Python file, newlines normalised: the one text that is reviewed, parsed and compiled.

    Raises CodeError: larger than 1 MB, not UTF-8, a coding cookie that names another encoding, a NUL character.
    One leading byte order mark is dropped, as Python does.
    """
    where = escape(path)
    if len(data) > MAX_BYTES:
        raise CodeError(
            f"the Python file has {len(data):,} bytes; at most {MAX_BYTES:,} are read",
            where=where,
            why="code of that size cannot be reviewed, and parsing it can exhaust memory",
            next="ask the publisher for source files of ordinary size",
        )
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        raise CodeError(
            f"the Python file is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            where=where,
            why="what a reviewer sees and what would run must be the same text",
            next="save the file as UTF-8",
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise CodeError("the Python file holds a NUL character", where=f"{where}:{line}", next="remove it")
    for number, line_text in enumerate(text.split("\n", 2)[:2], 1):
        found = _COOKIE.match(line_text)
        if found and found[1].lower().replace("_", "-") not in _UTF8 | {"utf-8-unix"}:
            raise CodeError(
                f"the Python file declares the encoding {escape(found[1])!r}",
                where=f"{where}:{number}",
                why="only UTF-8 is read, so that the reviewed text is the text that runs",
                next="save the file as UTF-8 and remove the declaration",
            )
    return text


def parse_source(text: str, path: str, *, limit: int = MAX_TOKENS) -> tuple[ast.Module, int]:
    """Return the syntax tree of decoded source, and how many tokens it has: `limit` at most, told before parsing.

    Raises CodeError when the text is built to exhaust a parser or hides identifiers behind Unicode normalisation, and
    Unparsable when it is not valid Python here (old print statements, syntax of a newer version): such a file is
    listed, and cannot run.
    """
    tokens = _check_bounds(text, escape(path), min(limit, MAX_TOKENS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text), tokens
    except SyntaxError as error:
        raise Unparsable(escape(error.msg or "invalid syntax"), error.lineno) from None
    except (RecursionError, MemoryError, ValueError, OverflowError) as error:
        raise CodeError(
            f"the Python file cannot be parsed: {type(error).__name__}",
            where=escape(path),
            why="it is nested more deeply than Python's parser allows",
            next="do not use this checkpoint's code",
        ) from None


def _check_bounds(text: str, where: str, limit: int) -> int:
    tokens = elifs = chain = 0
    outer: list[tuple[int, int]] = []  # per open bracket: the chain so far, the chain at which its segment begins
    base = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        tokens += 1
        if kind == "word":
            word = match[0]
            if word in _CHAIN_WORDS:
                chain += 1
            elif word == "elif":
                elifs += 1
            elif not word.isascii():
                _check_identifier(word, text, match.start(), where)
        elif kind == "operator":
            chain += 1
        elif kind == "open":
            outer.append((chain, base))
            base = chain = chain + 1
        elif kind == "close":
            if outer:
                chain, base = outer.pop()
                chain += 1
        elif kind == "comma" or (kind == "newline" and not outer):
            chain = base
        elif kind == "string":
            if _is_fstring(match[0]):
                # Every brace of an f-string is an expression with a parser of its own.
                tokens += 3 * (1 + match[0].count("{"))
                if match.end() - match.start() > MAX_FSTRING:
                    raise _too_deep("one f-string is too long", text, match.start(), where)
        elif kind == "broken":
            raise Unparsable("unterminated string", text.count("\n", 0, match.start()) + 1)
        if chain > MAX_CHAIN:
            raise _too_deep("one expression is too deep", text, match.start(), where)
        if tokens > limit:
            raise _too_deep("there is too much code", text, match.start(), where)
        if elifs > MAX_ELIF:
            raise _too_deep("there are too many elif branches", text, match.start(), where)
    return tokens


def _is_fstring(token: str) -> bool:
    return "f" in token[:2].lower().partition('"')[0].partition("'")[0]


def _too_deep(what: str, text: str, position: int, where: str) -> CodeError:
    line = text.count("\n", 0, position) + 1
    return CodeError(
        f"the Python file is refused: {what}",
        where=f"{where}:{line}",
        why="no person writes this by hand, and it can exhaust or crash Python's parser",
        next="do not use this checkpoint's code",
    )


def _check_identifier(word: str, text: str, position: int, where: str) -> None:
    if unicodedata.normalize("NFKC", word) != word:
        line = text.count("\n", 0, position) + 1
        raise CodeError(
            f"the name {escape(word)!r} is another name to Python than to the eye",
            where=f"{where}:{line}",
            why=f"Python reads it as {escape(unicodedata.normalize('NFKC', word))!r} (NFKC)",
            next="write the name in plain characters",
        )
