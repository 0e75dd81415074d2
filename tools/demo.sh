#!/usr/bin/env bash
# Draws a contact sheet of several prompts and prints the file's path.
# Usage: tools/demo.sh PROGRAM [CHECKPOINT]; without a checkpoint the repository's small model.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p outputs
exec "$1" generate --model "${2:-models/demo/atelier-demo.safetensors}" --seed 1 --steps 20 --overwrite \
  --prompt "a red circle" \
  --prompt "a large blue square on a yellow background" \
  --prompt "a small green triangle in the top left on a white background" \
  --prompt "a yellow star on a blue background" \
  --prompt "a purple heart on a pink background" \
  --prompt "a white ring in the bottom right on a black background" \
  --prompt "an orange diamond at the top on a cyan background" \
  --prompt "a large pink star on a black background" \
  --prompt "a red triangle left of a blue circle on a white background" \
  --prompt "a green square above a red triangle on a white background" \
  --prompt "a yellow star right of a purple ring on a black background" \
  --prompt "a cyan heart below an orange cross on a white background" \
  --out "outputs/demo_{index}.png" --sheet outputs/demo.png
