#!/usr/bin/env python3
"""Proves that code compiled for one instruction set cannot be linked in elsewhere.

The linker keeps one copy of an inline function that several object files define. If one of them
was compiled for AVX-512, every processor would get that copy. So object files of a single
instruction set may define no weak or unique function at all.
Usage: check_isa_symbols.py LIBRARY.a OBJECT-NAME...
"""
import subprocess
import sys


def members(library, names):
    """{object name: [(kind, symbol)]} of the archive's members called as in `names`."""
    text = subprocess.run(["nm", "--defined-only", "-C", library], check=True, capture_output=True,
                          text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        if line.endswith(":"):
            current = line[:-1]
        elif line and current in names:
            _, kind, symbol = line.split(" ", 2)
            found.setdefault(current, []).append((kind, symbol))
    return found


def main():
    library, names = sys.argv[1], sys.argv[2:]
    found = members(library, names)
    problems = [f"{name}: not in {library}" for name in names if name not in found]
    for name, symbols in found.items():
        # DW.ref.* are pointers to the exception handler, not code.
        problems += [f"{name}: shares '{symbol}'" for kind, symbol in symbols
                     if kind in "WVu" and not symbol.startswith("DW.ref.")]
    print("\n".join(problems) or f"{len(names)} object files share no code")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
