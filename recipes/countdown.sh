#!/usr/bin/env bash
# The models that ship with ARTS, from nothing, and the result table of README. Run from the checkout after `make test`.
#
# Cost on two cores of a shared CPU machine (2026-11-21): proposer 28 + 21 min, trees 70 min, verifier 125 min, test 2 min.
# Expected: pass@1 .30-.50 and pass@16 at least .85 for the proposer; 75% or more of the gap closed by the verifier.
# Every command goes on where it was interrupted.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/countdown}

# 1. Proposer, 0.85 M weights: 360,000 random solution traces, then 260,000 fresh ones in smaller batches.
$python recipes/train_countdown_proposer.py --out "$out/proposer-1"
$python recipes/train_countdown_proposer.py --out "$out/proposer-2" --init "$out/proposer-1/model" --seed 1 \
    --num-traces 260000 --sizes 3:0.1,4:0.75,5:0.15 --batch-size 128 --peak-lr 2e-3
cp -r "$out/proposer-2/model/." arts/models/countdown-proposer/ # its card stays; `countdown` now names these weights

# 2. Sparse Deep Fork trees of the training split, in two halves that two cores can make at the same time.
#    With 4 numbers, and fewer with 3 and with 5: a verifier that sees one size only misreads the others.
half=(--proposer countdown --split train --num-samples 8)
$python -m arts collect "${half[@]}" --num-problems 15360 --out "$out/trees-a" &
$python -m arts collect "${half[@]}" --num-problems 15360 --first-problem 15360 --out "$out/trees-b"
wait
$python -m arts collect "${half[@]}" --task countdown:3 --num-problems 2000 --out "$out/trees-3"
$python -m arts collect "${half[@]}" --task countdown:5 --num-problems 5000 --out "$out/trees-5"

#    And with four continuations of every inner step: labels with a fifth of the noise, for the last pass.
dense=(--proposer countdown --split train --num-samples 8 --pivots node --fork-probability 1 --forks-per-pivot 4)
$python -m arts collect "${dense[@]}" --num-problems 12288 --out "$out/deep-a" &
$python -m arts collect "${dense[@]}" --num-problems 12288 --first-problem 30720 --out "$out/deep-b"
wait
$python -m arts collect "${dense[@]}" --task countdown:3 --num-problems 2000 --out "$out/deep-3"

# 3. Flow verifier, trained in full from a copy of the proposer, in four passes. The higher rate of the later ones would
#    destroy a fresh copy; it is what makes scores of inner steps good (docs/experiments.md).
trees=("$out/trees-a" "$out/trees-b" "$out/trees-3" "$out/trees-5")
dense=("$out/deep-a" "$out/deep-b" "$out/deep-3")
pass=(--epochs 1 --batch-trees 4 --validation-share 0.012)
later=(--tuning full --learning-rate 6e-4)
$python -m arts train "${trees[@]}" "${pass[@]}" --backbone countdown --learning-rate 3e-4 --out "$out/verifier-1"
$python -m arts train "${trees[@]}" "${pass[@]}" --backbone "hf:$out/verifier-1/backbone" "${later[@]}" \
    --set leaf_weight=2 --out "$out/verifier-2"
$python -m arts train "${trees[@]}" "${pass[@]}" --backbone "hf:$out/verifier-2/backbone" "${later[@]}" \
    --set leaf_weight=2 --seed 1 --out "$out/verifier-3"
$python -m arts train "${trees[@]}" "${dense[@]}" "${pass[@]}" --validation-share 0.008 --backbone \
    "hf:$out/verifier-3/backbone" "${later[@]}" --set leaf_weight=3 --seed 2 --out "$out/verifier"
cp -r "$out/verifier/." arts/models/countdown-verifier/

# 4. Test problems that no earlier verifier was measured on, once: pools without forks, and the table.
pool=(--proposer countdown --split test --pivots none --num-samples 16)
$python -m arts collect --task countdown "${pool[@]}" --first-problem 2000 --num-problems 500 --out "$out/test"
$python -m arts evaluate --trees "$out/test" --verifier countdown --out "$out/evaluation"
mkdir -p results
cp "$out/evaluation/draws.jsonl" results/countdown-test.jsonl
$python recipes/readme_table.py --write
for n in 3 5; do
    $python -m arts collect --task "countdown:$n" "${pool[@]}" --first-problem 200 --num-problems 200 --out "$out/test-$n"
    $python -m arts evaluate --trees "$out/test-$n" --verifier countdown --out "$out/evaluation-$n"
done
