#!/bin/sh
# Measures the rows that a real GPU has in docs/performance.md, in about three minutes: `benches/gpu.sh [INCEPT]`, from the root of the checkout.
# INCEPT is the program, `target/release/incept` if it is left out. PyTorch's rows are run if there is a python3 with PyTorch.
set -u
incept=${1:-target/release/incept}
network="--width 1 --input 224 --classes 1000"
small="--variant torchvision --width 0.5 --input 32 --classes 10"

"$incept" devices
for precision in f32 f16; do
    "$incept" bench $network --batch 128 --precision $precision --tune off --rounds 3
done
for batch in 1 32; do
    "$incept" bench $network --batch $batch --precision f32 --tune off --rounds 3
done
"$incept" bench $small --batch 128 --precision f32 --tune off --rounds 3
for precision in f32 f16; do
    "$incept" profile $network --batch 128 --precision $precision --tune off --sort time | head -n 60
done
if python3 -c 'import torch' 2>/dev/null; then
    folder=$(dirname "$0")/peers
    python3 "$folder/torch_peer.py" step --width 1 --input 224 --classes 1000 --batch 128 --rounds 3 --no-cpu
    python3 "$folder/torch_peer.py" infer --width 1 --input 224 --classes 1000 --batch 1,32 --rounds 3 --no-cpu
fi
