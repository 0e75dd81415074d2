#!/usr/bin/env bash
# Installs what Atelier needs to build and run on Debian 12+ or Ubuntu 24.04+. Idempotent; quick when
# nothing is missing. Without root or sudo it prints the one command to run and stops.
#
#   tools/setup.sh            compiler, libraries, libtorch (.venv), the CLIP vocabulary
#   tools/setup.sh --lint     also clang-format and clang-tidy (.venv-lint)
#   tools/setup.sh --cuda     also the CUDA compiler, to check CUDA code without a GPU (.venv-cuda)
#   tools/setup.sh --bench    also the peers that `make bench` measures against (.venv-bench)
#   tools/setup.sh --reference  also the gguf package, which written files are checked with (.venv-reference)
#   tools/setup.sh --golden   also the reference implementations behind tests/golden (.venv-golden)
#
# ATELIER_TORCH=DIR uses that libtorch (or installed torch package) instead of the wheel in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

for option in "$@"; do
  case $option in
    --lint | --cuda | --bench | --reference | --golden) ;;
    *) echo "tools/setup.sh: unknown option '$option'; see the top of the file" >&2; exit 2 ;;
  esac
done

packages=(build-essential cmake ninja-build ccache git python3 python3-venv
  libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev
  libicu-dev libpng-dev zlib1g-dev libjpeg-dev libwebp-dev libgtest-dev)

if ! command -v dpkg-query >/dev/null; then
  echo "This is no Debian or Ubuntu, so nothing can be installed here. Needed are what these packages hold:" >&2
  echo "  ${packages[*]}" >&2
  exit 1
fi
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' ||
    missing+=("$package")
done
# A virtual package counts when something provides it.
if [ ${#missing[@]} -gt 0 ]; then
  still=()
  for package in "${missing[@]}"; do
    dpkg-query -W -f '${Provides}\n' 2>/dev/null | grep -qE "(^|[ ,])${package}([ ,(]|$)" || still+=("$package")
  done
  missing=("${still[@]+"${still[@]}"}")
fi
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ]; then
    as_root=()
  elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo) # on a terminal it may ask for the password
  else
    echo "Some packages are missing. Run this, then repeat the command:" >&2
    echo "  sudo apt-get update && sudo $install" >&2
    exit 1
  fi
  echo "Installing: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  "${as_root[@]}" apt-get update -qq
  # shellcheck disable=SC2086
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
fi

# venv NAME REQUIREMENT...: a virtual environment holding exactly these; a stamp makes repeats free.
venv() {
  local folder=$1 stamp
  shift
  stamp=$(printf '%s\n' "$@")
  if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  echo "Installing into $folder: $*"
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  printf '%s' "$stamp" >"$folder/.stamp"
}

if [ -z "${ATELIER_TORCH:-}" ]; then
  venv .venv torch==2.13.0 numpy
fi
python3 tools/fetch_clip_vocab.py

for option in "$@"; do
  case $option in
    --lint) venv .venv-lint clang-format==19.1.7 clang-tidy==22.1.8 ;;
    --cuda) venv .venv-cuda nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 ;;
    --bench) venv .venv-bench torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 openvino==2026.4.1 gguf==0.19.0 numpy ;;
    --reference) venv .venv-reference gguf==0.19.0 numpy==2.4.6 ;;
    --golden) venv .venv-golden -r tools/golden/requirements.txt ;;
  esac
done
