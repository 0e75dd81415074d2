#!/usr/bin/env bash
# Draws a contact sheet of several prompts and prints the file's path.
# Usage: tools/demo.sh PROGRAM [CHECKPOINT]; without a checkpoint the repository's small model.
set -euo pipefail
cd "$(dirname "$0")/.."
model=${2:-models/demo/atelier-demo.safetensors}
if [ ! -e "$model" ]; then
  echo "$model is not there. Give a checkpoint of your own: make demo MODEL=FILE" >&2
  exit 1
fi
mkdir -p outputs
exec "$1" generate --model "$model" --seed 5 --steps 20 --overwrite \
  --prompt "a red circle" \
  --prompt "a large blue square on a yellow background" \
  --prompt "a small green triangle in the top left" \
  --prompt "a yellow star" \
  --prompt "a red circle left of a blue square" \
  --prompt "a green square above a red triangle" \
  --out "outputs/demo_{index}.png" --sheet outputs/demo.png
