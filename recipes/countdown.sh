#!/usr/bin/env bash
# The models that ship with ARTS, from nothing, and the result table of README. Run from the checkout after `make test`.
#
# Cost on two cores of a shared CPU machine (2026-11-21): proposer 28 + 17 min, trees 15 min, verifier 35 min, test 1 min.
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
proposer=hf:$out/proposer-2/model

# 2. Sparse Deep Fork trees of the training split, in two halves that two cores can make at the same time.
$python -m arts collect --proposer "$proposer" --split train --num-samples 8 --num-problems 12288 --out "$out/trees-a" &
$python -m arts collect --proposer "$proposer" --split train --num-samples 8 --num-problems 12288 --first-problem 12288 \
    --out "$out/trees-b"
wait

# 3. Flow verifier, trained in full from a copy of the proposer, on Reasoning Flow Matching.
$python -m arts train "$out/trees-a" "$out/trees-b" --backbone "$proposer" --tuning full --epochs 2 --out "$out/verifier"

# 4. The test problems, once: a pool without forks, and the table.
$python -m arts collect --proposer "$proposer" --split test --pivots none --num-samples 16 --num-problems 500 --out "$out/test"
$python -m arts evaluate --trees "$out/test" --verifier "$out/verifier" --out "$out/evaluation"
mkdir -p results
cp "$out/evaluation/draws.jsonl" results/countdown-test.jsonl
$python recipes/readme_table.py --write
