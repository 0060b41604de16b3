#!/usr/bin/env bash
# The frozen model with a verifier against the same model tuned by GRPO: tables and plot of docs/grpo.md.
#
# Needs the verifiers of objectives.sh and the trees of countdown.sh (for their bills). Every command goes on where it was
# interrupted. Cost on one core of a shared CPU machine (2026-11-21): a GRPO run 30 to 50 min, a pool of 64 draws 4 min.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=runs/grpo

# 1. GRPO for 300 updates at most, while pass@1 on 200 validation problems rises; three seeds, all weights.
for seed in 0 1 2; do $python -m arts grpo --seed $seed --keep-checkpoints 100 --out "$out/seed-$seed"; done

# 2. The two cures that did best on toy trees, in its place; same draws an update.
for cure in flowrl deepsearch; do
    $python recipes/grpo_cures.py $cure --set max_updates=100 --set keep_checkpoints=100 --out "$out/$cure-0"
done

# 3. One factor at a time, 50 updates.
short=(--updates 50 --validation-problems 0)
$python -m arts grpo "${short[@]}" --group-size 4 --problems-per-update 96 --out "$out/group-4"
$python -m arts grpo "${short[@]}" --group-size 32 --problems-per-update 12 --out "$out/group-32"
$python -m arts grpo "${short[@]}" --temperature 0.7 --out "$out/temperature-0.7"
$python -m arts grpo "${short[@]}" --learning-rate 1.5e-4 --out "$out/rate-1.5e-4"
$python -m arts grpo "${short[@]}" --task countdown:3 --out "$out/three-numbers"

# 4. Expert iteration: search with the shipped verifier, learn from the right solutions of all rounds, search on.
model=countdown
found=()
for round in 1 2 3; do
    $python -m arts search --split train --strategy arts --budget-tokens 600 --num-problems 3000 \
        --first-problem $(((round - 1) * 3000)) --proposer $model --keep-trees --no-report --out "$out/search-$round"
    found+=("$out/search-$round")
    $python -m arts finetune "${found[@]}" --out "$out/expert-$round"
    model=hf:$out/expert-$round/model
done

# 5. Draws on 500 test problems: the first 16 to choose from, the others to count with.
pool() { # NAME MODEL DRAWS PROBLEMS
    $python -m arts collect --proposer "$2" --split test --seed 1 --first-problem 2500 --num-problems "$4" --pivots none \
        --num-samples "$3" --out "$out/pools/$1"
}
pool base countdown 256 500
for seed in 0 1 2; do pool grpo-$seed "hf:$out/seed-$seed/model" 64 500; done
for updates in 25 50 100 200; do
    pool "seed-0-after-$updates" "hf:$out/seed-0/checkpoints/checkpoint-$updates" 64 200
done
for run in flowrl deepsearch; do pool "$run-after-100" "hf:$out/$run-0/checkpoints/checkpoint-100" 64 200; done
for run in group-4 group-32 temperature-0.7 rate-1.5e-4 three-numbers expert-1 expert-2 expert-3; do
    pool $run "hf:$out/$run/model" 64 200
done

# 6. Rows, tables, plot.
$python recipes/grpo_rows.py
$python recipes/grpo_table.py
