#!/usr/bin/env bash
# Compiles and links the CUDA code with the compiler of .venv-cuda (or the nvcc on PATH) and runs its
# tests, which skip without a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
toolkit=$(echo .venv-cuda/lib/python3*/site-packages/nvidia/cu13)
if [ -x "$toolkit/bin/nvcc" ]; then
  ln -sfn lib "$toolkit/lib64" # where CMake looks for the runtime
  export LIBRARY_PATH="$PWD/$toolkit/lib${LIBRARY_PATH:+:$LIBRARY_PATH}"
  compiler=$PWD/$toolkit/bin/nvcc
else
  compiler=$(command -v nvcc) || { echo "no nvcc: run tools/setup.sh --cuda" >&2; exit 1; }
fi
cmake --preset cuda -DATELIER_TORCH_FREE=ON -DCMAKE_CUDA_COMPILER="$compiler" \
  -DCMAKE_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES:-75;86;90}" >/dev/null
cmake --build build/cuda --target quant_cuda_test
ctest --test-dir build/cuda -L cuda --output-on-failure --no-tests=error | grep -vE '^Test project'
