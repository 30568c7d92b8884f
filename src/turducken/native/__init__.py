"""Hot paths, written once in typed Python: compiled where possible, called as they are elsewhere.

`records` has the types that such functions know, `translate` turns them into LLVM assembly,
`build` compiles that and keeps the result.
"""

from turducken.native.build import Unit
from turducken.native.records import (
    I64,
    U8,
    U16,
    U32,
    U64,
    Record,
    Ref,
    Words,
    byte_at,
    dword_at,
    set_word_at,
    word_at,
)

__all__ = [
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Record",
    "Ref",
    "Unit",
    "Words",
    "byte_at",
    "dword_at",
    "set_word_at",
    "word_at",
]
