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

# clang-tidy reads the compile commands of the torch-free build; libtorch's headers are not ours to
# check, and parsing them takes longer than all the rest. GCC's own flags are taken out.
cmake --preset asan -B build/tidy -DATELIER_SANITIZE= >/dev/null
python3 - <<'EOF' >build/tidy/sources
import json
import re

path = "build/tidy/compile_commands.json"
entries = json.load(open(path))
for entry in entries:
    entry["command"] = re.sub(r" (-W[a-z]\S*|-fno-gnu-unique|-fmax-errors\S*)(?= )", "", entry["command"])
    if "/src/" in entry["file"] and not entry["file"].endswith("_test.cpp"):
        print(entry["file"])
json.dump(entries, open(path, "w"))
EOF
sort -u build/tidy/sources |
  xargs -P "$(nproc)" -n 4 .venv-lint/bin/clang-tidy -p build/tidy --quiet 2>/dev/null
echo "lint: ${#files[@]} files clean"
