#!/usr/bin/env bash
# Formatting, static checks and the layer check; --fix formats in place.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t files < <(git ls-files -co --exclude-standard 'src/*.h' 'src/*.cpp' 'src/*.cu' 'src/*.cuh' 'fuzz/*.cpp' 'bench/*.cpp')
if [ "${1:-}" = --fix ]; then
  .venv-lint/bin/clang-format -i "${files[@]}"
  exit
fi
.venv-lint/bin/clang-format --dry-run -Werror "${files[@]}"
python3 tools/check_layers.py

# clang-tidy reads the compile commands of the release build, with GCC's own flags taken out. It parses
# libtorch's headers anew for each source, about six seconds, so the two libraries that see no input
# from outside are left out.
cmake --preset release -B build/lint >/dev/null
python3 - <<'EOF' >build/lint/sources
import json
import re

LEFT_OUT = ("/src/nn/", "/src/models/")
path = "build/lint/compile_commands.json"
entries = json.load(open(path))
for entry in entries:
    entry["command"] = re.sub(r" (-W[a-z]\S*|-fno-gnu-unique|-fopenmp)(?= )", "", entry["command"])
    file = entry["file"]
    if "/src/" in file and not file.endswith("_test.cpp") and not any(part in file for part in LEFT_OUT):
        print(file)
json.dump(entries, open(path, "w"))
EOF
sort -u build/lint/sources |
  xargs -P "$(nproc)" -n 4 .venv-lint/bin/clang-tidy -p build/lint --quiet 2>/dev/null
echo "lint: ${#files[@]} files clean"
