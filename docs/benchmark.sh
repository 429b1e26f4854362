#!/bin/sh
# Prints the table of docs/benchmarks.md: make benchmark
set -eu

dense=models/gpt-megatron/model.onnx
moe=build/benchmark/moe.onnx
mkdir -p build/benchmark
bin/fmoefy "$dense" -o "$moe" --num-experts 8 --top-k 2 > build/benchmark/report.txt

# latency MODEL BATCH SEQUENCE THREADS: "min p50" in milliseconds
latency() {
	bin/moerun run "$1" --random --dim "batch=$2,sequence=$3" --threads "$4" --repeat 100 |
		sed -n 's/.* min \([0-9.]*\) ms, p50 \([0-9.]*\) ms.*/\1 \2/p'
}

echo '| batch × sequence | threads | dense, ms: min (p50) | FMoE, ms: min (p50) | dense, tokens/s | FMoE, tokens/s |'
echo '| ---: | ---: | ---: | ---: | ---: | ---: |'
for shape in '1 1' '1 16' '1 128' '8 128'; do
	for threads in 1 2; do
		set -- $shape
		a=$(latency "$dense" "$1" "$2" "$threads")
		b=$(latency "$moe" "$1" "$2" "$threads")
		echo "$1 $2 $threads $a $b" |
			awk '{ printf "| %d × %d | %d | %.2f (%.2f) | %.2f (%.2f) | %d | %d |\n", $1, $2, $3, $4, $5, $6, $7, 1000*$1*$2/$4, 1000*$1*$2/$6 }'
	done
done
