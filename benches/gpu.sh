#!/bin/sh
# Measures the GPU results of docs/performance.md, and their ratios: `benches/gpu.sh [INCEPT [PEERS [FOLDER]]]`, in the root of the repository.
#
# INCEPT is the program (target/release/incept), PEERS that of benches/peers (skipped if it does not exist), FOLDER an image folder with images of
# 224 pixels or more, for whole epochs (`cargo run --release --example noise_folder -- noise 4096` writes one). PyTorch's results are measured if
# there is a python3 with PyTorch. Without PEERS and FOLDER this takes about four minutes.
#
# `INCEPT_SHORT=1 INCEPT_DEVICE=llvmpipe benches/gpu.sh` runs every line of it with a small network and batches, in a minute or two, where there is no
# GPU: it shows that the script works, and its figures mean nothing.
# shellcheck disable=SC2086 # networks are several words
set -u
incept=${1:-target/release/incept}
peers=${2:-benches/peers/target/release/peers}
# The best GPU; `INCEPT_DEVICE=llvmpipe` tries the script where there is none.
device=${INCEPT_DEVICE:-gpu}
folder=${3:-}
dimensions="--width 1 --input 224"
classes=1000
small="--variant torchvision --width 0.5 --input 32 --classes 10"
batch=128
small_batch=32
rounds=3
if [ -n "${INCEPT_SHORT:-}" ]; then
    dimensions="--width 0.125 --input 64"
    classes=10
    batch=4
    small_batch=2
    rounds=1
fi
network="$dimensions --classes $classes"
here=$(dirname "$0")
kept=$(mktemp)
trap 'rm -f "$kept"' EXIT

# Runs a benchmark, prints its output, and saves a line with its name and training images/s.
bench() {
    name=$1
    shift
    line=$("$incept" bench --device "$device" "$@" --rounds "$rounds" --json | tail -n 1)
    printf '%s: %s\n' "$name" "$line"
    # Training comes before inference.
    printf '%s %s\n' "$name" "$(printf '%s' "$line" | grep -o '"images_per_s":{"median":[0-9.]*' | head -n 1 | sed 's/.*://')" >>"$kept"
}

"$incept" devices
# Defaults first: later runs use the tuning cache.
bench f32 $network --batch "$batch" --precision f32 --tune off
bench f16 $network --batch "$batch" --precision f16 --tune off
bench f32-tuned $network --batch "$batch" --precision f32 --tune fast
bench f16-tuned $network --batch "$batch" --precision f16 --tune fast
for precision in f32 f16; do
    for size in 1 "$small_batch"; do
        "$incept" bench --device "$device" $network --batch "$size" --precision $precision --tune off --rounds "$rounds"
    done
done
"$incept" bench --device "$device" $small --batch "$batch" --precision f32 --tune off --rounds "$rounds"
for precision in f32 f16; do
    "$incept" profile --device "$device" $network --batch "$batch" --precision $precision --sort time | tee "$kept.$precision" | head -n 60
done
peak=$(sed -n 's/^peaks *\([0-9.]*\) \([GT]\)FLOPS.*/\1 \2/p' "$kept.f32" | awk '{ print $2 == "T" ? $1 : $1 / 1000 }')
rm -f "$kept.f32" "$kept.f16"
awk -v peak="$peak" -v short="${INCEPT_SHORT:-}" '
    { rate[$1] = $2 }
    END {
        # A training image of the whole network at 224 is 9.31 GFLOP.
        if (!short) for (run in rate) printf "%-10s %8.0f images/s, %.0f%% of the f32 peak of %s TFLOP/s (wanted in f32: 40%%)\n", run, rate[run], 0.931 * rate[run] / peak, peak
        if (rate["f32"] && rate["f16"]) printf "f16 / f32  %.2f (wanted: 2)\n", rate["f16"] / rate["f32"]
        if (rate["f32-tuned"] && rate["f16-tuned"]) printf "the same, tuned  %.2f\n", rate["f16-tuned"] / rate["f32-tuned"]
    }' "$kept"
if [ -n "$folder" ]; then
    # Each epoch prints the device utilization.
    "$incept" train "$folder" --device "$device" $dimensions --batch "$batch" --epochs 2 --augment crops --tune off --view plain --runs-dir "$(mktemp -d)"
fi
if [ -x "$peers" ]; then
    "$peers" step $network --batch "$batch" --rounds "$rounds" --block 500
    # incept in f16 with cooperative matrices, burn in f32.
    "$peers" step $network --batch "$batch" --rounds "$rounds" --block 500 --precision f16
    "$peers" infer $network --batch "1,$small_batch" --rounds "$rounds" --block 500
fi
if python3 -c 'import torch' 2>/dev/null; then
    torch="$here/peers/torch_peer.py"
    python3 "$torch" step $network --batch "$batch" --rounds "$rounds" --no-cpu --incept "$incept"
    python3 "$torch" infer $network --batch "1,$small_batch" --rounds "$rounds" --no-cpu --incept "$incept"
fi
