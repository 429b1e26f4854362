#!/usr/bin/env bash
# Checks and measures the CUDA device on a machine with a GPU: conformance, gradients, samples, compute-sanitizer, and FMoE
# layers beside PyTorch's. It needs no compiler: make cuda-package has put the programs into build/cuda/package.
# Usage: scripts/gpu-check.sh [folder of programs]
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
programs=$(realpath "${1:-build/cuda/package}")
log=$(mktemp -d)
failed=0

# check NAME COMMAND…: runs a command, prints its outcome, and its end where it fails.
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@" > "$log/out" 2>&1; then
        printf '%-48s ok      %4d s\n' "$name" $((SECONDS - start))
    else
        printf '%-48s FAILED  %4d s\n' "$name" $((SECONDS - start))
        tail -n 15 "$log/out"
        failed=1
    fi
}

"$programs/moerun" devices
cd "$root/cuda"
check 'FMoE layers equal the CPU'"'"'s, twice the same bits' "$programs/cuda.test" -test.run Test
cd "$root/runtime"
check 'ONNX operator cases' env FMOE_DEVICE=cuda "$programs/runtime.test" -test.run 'TestONNXCases|TestContrib'
check 'gradients' env FMOE_DEVICE=cuda "$programs/runtime.test" -test.run 'TestGradient|TestFMoE'
check 'workers over NCCL, on as many GPUs as there are' "$programs/nccl.test" -test.run Test
cd "$root"
for data in models/*/test_data_set_0; do
    model=$(dirname "$data")
    check "$model" "$programs/moerun" run "$model/model.onnx" --device cuda --data "$data" --check --rtol 1e-3 --atol 1e-4
done
# Training follows the CPU's losses.
for device in cpu cuda; do
    check "training on $device" "$programs/moerun" train models/gpt-megatron/model.onnx --data docs/training.md --tokenizer bytes --length 32 --batch 8 \
        --steps 20 --device $device --output "$log/$device" --quiet --set evaluate_every=0 --set save_every=0
done
check 'the same losses' python3 - "$log" <<'END'
import json, sys
runs = [[json.loads(line) for line in open(f"{sys.argv[1]}/{device}/log.jsonl")] for device in ("cpu", "cuda")]
losses = [[r["loss"] for r in run if r["record"] == "step"] for run in runs]
sys.exit(not all(abs(a - b) < 1e-3 * a for a, b in zip(*losses)))
END
if command -v compute-sanitizer > "$log/out"; then
    for tool in memcheck racecheck; do
        check "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 1 \
            "$programs/cuda.test" -test.run 'TestFMoE/(float32_N=77|bfloat16_N=500|float16_N=90)'
    done
fi

echo
"$programs/cuda.test" -test.run '^$' -test.bench FMoE -test.benchtime 10x | awk '/^BenchmarkFMoE/ { split($1, name, "/"); print "fmoe     ", name[2] ":", $7, "µs,", $5, "TFLOP/s" }'
python3 scripts/gpu_peers.py
"$programs/moerun" bench models/gpt-megatron/model.onnx --train --device cuda --dim batch=8,sequence=64
exit $failed
