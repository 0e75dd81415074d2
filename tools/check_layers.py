#!/usr/bin/env python3
"""Proves that libraries depend one way only.

Reads every src/<library>/CMakeLists.txt: DEPS are the libraries it may include from (and, through
them, theirs), HDRS the headers others may include. Fails on an include of a library not reachable,
of a header that is not public, on a library named before the one it uses, and on libtorch headers
in a library that does not say TORCH.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
ORDER = ["base", "formats", "media", "text", "graph", "jobs", "device", "quant", "memory", "nn",
         "models", "lora", "sampling", "pipeline", "nodes", "cluster", "server", "app"]
KEYWORDS = {"NAME", "HDRS", "SRCS", "DEPS", "LINK", "TESTS", "SLOW_TESTS", "TORCH"}


def read_library(path):
    """The atelier_library() call of one folder as {keyword: [words]}."""
    text = re.sub(r"#.*", "", path.read_text())
    call = re.search(r"atelier_library\((.*?)\)", text, re.S)
    fields, key = {}, None
    for word in call.group(1).split() if call else []:
        if word in KEYWORDS:
            key = word
            fields[key] = []
        else:
            fields[key].append(word)
    return fields


def reachable(name, libraries):
    found, todo = set(), [name]
    while todo:
        for dep in libraries[todo.pop()].get("DEPS", []):
            if dep not in found and dep in libraries:
                found.add(dep)
                todo.append(dep)
    return found


def check(libraries):
    problems = []
    for name, fields in libraries.items():
        for dep in fields.get("DEPS", []):
            if dep not in libraries:
                problems.append(f"src/{name}: DEPS names '{dep}', which is no library")
            elif ORDER.index(dep) >= ORDER.index(name):
                problems.append(f"src/{name}: may not use '{dep}', which stands below it")
        allowed = reachable(name, libraries) | {name}
        for file in sorted((SRC / name).rglob("*")):
            if file.suffix not in {".h", ".cpp", ".cu", ".cuh", ".inc"}:
                continue
            where = file.relative_to(ROOT)
            for include in re.findall(r'^\s*#\s*include\s*([<"][^>"]+)[>"]', file.read_text(), re.M):
                kind, target = include[0], include[1:]
                if kind == "<":
                    if re.match(r"(ATen|c10|torch)/", target) and "TORCH" not in fields:
                        problems.append(f"{where}: includes <{target}>, but '{name}' does without libtorch")
                    continue
                library, _, header = target.partition("/")
                if library not in libraries:
                    problems.append(f'{where}: includes "{target}", which is not rooted at src/')
                elif library not in allowed:
                    problems.append(f"{where}: includes \"{target}\", but DEPS does not reach '{library}'")
                elif library != name and header not in libraries[library].get("HDRS", []):
                    problems.append(f'{where}: includes "{target}", which is not a public header')
    return problems


def main():
    libraries = {p.parent.name: read_library(p) for p in sorted(SRC.glob("*/CMakeLists.txt"))}
    problems = [f"src/{n}: not in the list of libraries" for n in libraries if n not in ORDER]
    problems = problems or check(libraries)
    print("\n".join(problems) or f"{len(libraries)} libraries, one way only")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
