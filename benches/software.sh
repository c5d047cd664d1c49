#!/bin/bash
# Checks incept on software drivers other than lavapipe: `benches/software.sh [INCEPT [PYTHON]]`, in the root of the repository.
#
# On Mesa's llvmpipe through OpenGL, and on SwiftShader, it runs `incept verify tests/fixtures`, trains 20 steps of the paper's network (width 1/8, 32 x 32
# digits) and compares all weights with those that lavapipe and the CPU device gave: the norm of their difference relative to that of the weights.
# INCEPT is the program (target/release/incept); PYTHON has safetensors and numpy, for the comparison.
#
# SwiftShader is the driver of Chromium's `vk_swiftshader_icd.json` in $SWIFTSHADER; without it, the one where Debian's chromium has it, or of the package
# itself, unpacked into target/swiftshader. A driver that is not there is reported, and the exit code is 1 if anything failed or was missing.
#
# SwiftShader computes on the CPU without vectors of eight: its part takes most of the time. VERIFY=none leaves out `verify`.
set -u
incept=${1:-target/release/incept}
python=${2:-${INCEPT_PYTHON:-python3}}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
incept=$(realpath "$incept")

say() { printf '%s (%d s)\n' "$1" "$SECONDS"; }

swiftshader() {
    local file
    for file in "${SWIFTSHADER:-}" /usr/lib/chromium/vk_swiftshader_icd.json target/swiftshader/usr/lib/chromium/vk_swiftshader_icd.json; do
        [ -f "$file" ] && realpath "$file" && return
    done
    mkdir -p target/swiftshader
    (cd target/swiftshader && apt-get download chromium >/dev/null 2>&1 && dpkg -x chromium_*.deb . && rm -f chromium_*.deb)
    [ -f "$file" ] && realpath "$file"
}

# The training and the checks on a device, with the variables that select its driver.
check() {
    local name=$1 device=$2
    shift 2
    say "$name"
    if ! env "$@" "$incept" train digits --width 0.125 --image-size 32 --batch-size 16 --limit 320 --epochs 1 --no-validation --tune off \
        --seed 1 --view plain --device "$device" --runs-dir "$folder/$name" --output "$folder/$name.safetensors" >"$folder/log" 2>&1; then
        tail -n 3 "$folder/log"
        failed=1
        return
    fi
    say "  trained 20 steps"
    if [ "$name" != lavapipe ] && [ "$name" != cpu ] && [ "${VERIFY:-all}" != none ]; then
        env "$@" "$incept" verify tests/fixtures --device "$device" >"$folder/log" 2>&1 || failed=1
        tail -n 1 "$folder/log"
    fi
}

check cpu cpu
check lavapipe llvmpipe WGPU_BACKEND=vulkan
check opengl llvmpipe WGPU_BACKEND=gl
if file=$(swiftshader); then
    # Its compiler once took 8.6 GB for one kernel; now 60 MB.
    ulimit -v 6000000
    check swiftshader SwiftShader WGPU_BACKEND=vulkan "VK_DRIVER_FILES=$file" "VK_ICD_FILENAMES=$file"
else
    echo "swiftshader: not found: set SWIFTSHADER to vk_swiftshader_icd.json of Chromium"
    failed=1
fi

"$python" - "$folder" <<'PYTHON' || failed=1
import pathlib, sys
import numpy as np
from safetensors.numpy import load_file

folder = pathlib.Path(sys.argv[1])
weights = {f.stem: load_file(f) for f in sorted(folder.glob("*.safetensors"))}
base = weights.get("lavapipe")
for name, other in weights.items():
    if base is None or name == "lavapipe":
        continue
    names = [n for n in base if base[n].dtype == np.float32 and not n.startswith("optimizer")]
    norm = lambda arrays: sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays) ** 0.5
    print(f"{name} against lavapipe: {norm([other[n] - base[n] for n in names]) / norm([base[n] for n in names]):.1e} of the weights' norm")
PYTHON
say "done"
exit "$failed"
