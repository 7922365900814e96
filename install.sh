#!/usr/bin/env bash
# Sets up .venv next to this file, and runs the demo, the tests or the page if asked. `bash install.sh --help` explains.
set -euo pipefail

here=$(CDPATH= cd -- "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=$here/.venv
torch_version=$(sed -n 's/^torch==//p' "$here/constraints.txt")

usage() {
    cat <<'USAGE'
bash install.sh [--with <extra>]… [demo|test|play [<arguments>]]

Makes a virtual environment in .venv (next to this file) with everything that GenieRedux needs, in the tested
versions of constraints.txt. Takes some minutes and 1.5 GB (more with a GPU). Run it again at any time: it does only
what is missing.

  bash install.sh                  set up
  bash install.sh demo             set up, then `python run.py demo`: a small world model from nothing, in minutes
  bash install.sh test             set up, then the tests; arguments go to pytest: bash install.sh test -k launcher
  bash install.sh play             set up, then `python run.py play`: a page to play a world model on; arguments go to it
  bash install.sh --with coinrun   set up, with Procgen: CoinRun and 15 other games (Python 3.11 only)
  bash install.sh --with atari     set up, with ale-py: Atari's games, their ROMs included
  bash install.sh --with minigrid  set up, with MiniGrid
  bash install.sh --with classic   set up, with pygame, which draws Gymnasium's classic control (CartPole and others)
  bash install.sh --with launchers set up, with Hydra's launchers for parallel and Slurm multiruns
  bash install.sh --with ray       set up, with Ray and Hydra's launcher for it
  bash install.sh --with lerobot   set up, with PyArrow, which `data export --format lerobot` needs
  bash install.sh --with formats   set up, with what `data import` needs for HDF5, Parquet and ArrayRecord files
  bash install.sh --with tensorboard set up, with TensorBoard, for `train.trackers=[wandb,tensorboard]`
  bash install.sh --with export    set up, with ONNX and onnxruntime-web (by npm) for `python run.py export`

Needs Python 3.11 or newer with its venv module. PYTHON=<path> chooses another one than the first that is found.
torch: the CPU build on Linux machines without an NVIDIA GPU, else the usual one.
Afterwards: source .venv/bin/activate && python run.py --help
USAGE
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# Prints the first usable Python; 3.11 first, as the pinned versions were tested with it.
find_python() {
    local candidate without_venv=""
    local candidates=(python3.11 python3.12 python3.13 python3 python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        without_venv=$candidate
    done
    if [ -n "$without_venv" ]; then
        fail "$without_venv has no venv module: install it (Debian, Ubuntu: apt install python3-venv) and run again"
    fi
    fail "no Python 3.11 or newer found${PYTHON:+ at PYTHON=$PYTHON}: install one, or name it: PYTHON=<path> bash install.sh"
}

pip_install() {
    # Quiet where nobody watches, else with pip's progress bars.
    local quiet=""
    [ -t 1 ] || quiet=-q
    "$venv/bin/python" -m pip install --disable-pip-version-check $quiet "$@" ||
        fail "pip could not install everything (see above): check the network and the disk, then run again"
}

has_nvidia_gpu() {
    [ -e /proc/driver/nvidia/version ] || { command -v nvidia-smi && nvidia-smi -L | grep -q GPU; } >/dev/null 2>&1
}

install_torch() {
    if "$venv/bin/python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$torch_version')" 2>/dev/null; then
        return
    fi
    if [ "$(uname -s)" != Linux ] || has_nvidia_gpu; then
        pip_install "torch==$torch_version"
        return
    fi
    echo "No NVIDIA GPU here: installing the CPU build of torch $torch_version"
    if "$venv/bin/python" -m pip install --disable-pip-version-check -q "torch==$torch_version+cpu" 2>/dev/null; then
        return
    fi
    # The package index has the usual build only; uv knows where the CPU builds are.
    local uv
    uv=$(command -v uv || true)
    if [ -z "$uv" ] && "$venv/bin/python" -m pip install --disable-pip-version-check -q uv 2>/dev/null; then
        uv=$venv/bin/uv
    fi
    if [ -n "$uv" ] && "$uv" pip install --python "$venv/bin/python" --torch-backend=cpu "torch==$torch_version" 2>/dev/null; then
        return
    fi
    echo "The CPU build is not available here: installing the usual build of torch, which is larger and works as well"
    pip_install "torch==$torch_version"
}

# What an exported page runs on, in a browser: from the npm registry into .venv/share.
install_onnxruntime_web() {
    local version=$1 folder=$venv/share/onnxruntime-web packed
    grep -qs "\"version\": \"$version\"" "$folder/package.json" && return
    if ! command -v npm >/dev/null; then
        echo "install.sh: no npm here to fetch onnxruntime-web $version: see docs/guide/export.md" >&2
        return
    fi
    packed=$(mktemp -d)
    npm pack --silent --pack-destination "$packed" "onnxruntime-web@$version" >/dev/null ||
        fail "npm could not fetch onnxruntime-web (see above): check the network, then run again"
    mkdir -p "$folder"
    (
        cd "$packed"
        tar -xzf ./*.tgz
        rm -rf "$folder/dist"
        mv package/dist package/package.json "$folder/"
        # Only what the page takes.
        find "$folder/dist" -type f ! -name 'ort.wasm.bundle.min.mjs' ! -name 'ort-wasm-simd-threaded.wasm' \
            ! -name 'ort.webgpu.bundle.min.mjs' ! -name 'ort-wasm-simd-threaded.asyncify.wasm' -delete
    )
    rm -rf "$packed"
}

install_extra() {
    case $1 in
        coinrun)
            # Its declared requirements would force an old numpy: without them it works with the new one.
            "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
                fail "CoinRun needs Python 3.11: remove .venv and run PYTHON=python3.11 bash install.sh --with coinrun"
            pip_install --no-deps procgen-mirror==0.10.7 gym3==0.3.3 gym==0.26.2 cffi==2.1.1 pycparser==3.0
            "$venv/bin/python" -W ignore -c 'import procgen' ||
                fail "CoinRun is installed but cannot be imported (see above)"
            ;;
        atari)
            pip_install -c "$here/constraints.txt" ale-py==0.12.1
            ;;
        minigrid)
            pip_install -c "$here/constraints.txt" minigrid==3.2.0
            ;;
        classic)
            pip_install pygame-ce==2.5.8
            ;;
        launchers)
            pip_install -c "$here/constraints.txt" hydra-joblib-launcher==1.2.0 hydra-submitit-launcher==1.2.0
            ;;
        ray)
            # The launcher asks for an older cloudpickle and for what starts clusters on AWS: it works without.
            pip_install --no-deps ray==2.60.0 hydra-ray-launcher==1.2.2 msgpack==1.2.4 jsonschema==4.26.0 \
                referencing==0.37.0 rpds-py==2026.9.1 jsonschema-specifications==2025.9.1
            ;;
        tensorboard)
            pip_install -c "$here/constraints.txt" tensorboard==2.21.0 tensorboard-data-server==0.7.2 absl-py==2.5.1 \
                grpcio==1.85.3 Markdown==3.11.3 Werkzeug==3.1.9
            ;;
        lerobot)
            pip_install pyarrow==26.0.1
            ;;
        formats)
            pip_install -c "$here/constraints.txt" pyarrow==26.0.1 h5py==3.16.0 array_record==0.8.6 \
                absl-py==2.5.1 etils==1.15.0 importlib_resources==7.1.0 zipp==4.1.2
            ;;
        export)
            pip_install -c "$here/constraints.txt" onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 \
                onnx-ir==1.1.0 ml_dtypes==0.6.0 flatbuffers==25.12.19
            install_onnxruntime_web 1.30.0
            ;;
    esac
}

set_up() {
    local stamp=$venv/.installed sum python
    sum=$(cat "$here/constraints.txt" "$here/pyproject.toml" | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return
    fi
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv" || fail "could not make a virtual environment in $venv (see above)"
    fi
    echo "Installing into .venv: some minutes, 1.5 GB"
    install_torch
    pip_install -r "$here/constraints.txt"
    echo "$sum" >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
    echo "Installed. Next: source .venv/bin/activate && python run.py --help"
}

extras=""
action=""
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --with)
            [ $# -ge 2 ] || fail "--with needs the name of an extra: coinrun, atari, minigrid, classic, launchers, ray, lerobot, formats, tensorboard, export"
            extras="$extras $2"
            shift 2
            ;;
        --with=*)
            extras="$extras ${1#--with=}"
            shift
            ;;
        demo | test | play)
            action=$1
            shift
            break
            ;;
        *) fail "unknown argument '$1': see bash install.sh --help" ;;
    esac
done

for extra in $extras; do
    case $extra in coinrun | atari | minigrid | classic | launchers | ray | lerobot | formats | tensorboard | export) ;; *) fail "unknown extra '$extra': there are coinrun, atari, minigrid, classic, launchers, ray, lerobot, formats, tensorboard, export" ;; esac
done
set_up
for extra in $extras; do
    install_extra "$extra"
done
case $action in
    demo | play) exec "$venv/bin/python" "$here/run.py" "$action" "$@" ;;
    test)
        cd "$here"
        # A process a core: the tests use one thread each.
        exec "$venv/bin/python" -m pytest -n auto --maxprocesses=4 "$@"
        ;;
esac
