#!/usr/bin/env bash
# Which objective is best for choosing, and which for guiding? The whole experiment of docs/experiments.md, from a fresh
# clone after `make test`. Needs no model but the shipped proposer. Every command goes on where it was interrupted: rows
# of results/objectives.jsonl that exist are not made again, so a fresh clone with the committed rows has little to do.
#
# Cost on two cores of a shared CPU machine (2026-11-21): trees 15 min; one run 2 min at 600 problems, 3.5 min at 2,400,
# 6 min at 8,000; the test 12 s a verifier. All of it is about 9 hours of one core; PARTS=2 runs two processes.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=runs/countdown
parts=${PARTS:-1}

train() {
    for ((part = 0; part < parts; part++)); do
        $python recipes/objectives.py train "$@" --part "$part/$parts" &
    done
    wait
}

# 1. Training trees; other training problems, whose loss says which weights of a run to keep; pools that nothing else used.
half=(--split train --num-samples 8 --num-problems 15360)
pool=(--pivots none --num-samples 16)
$python -m arts collect "${half[@]}" --out "$out/trees-a"
$python -m arts collect "${half[@]}" --first-problem 15360 --out "$out/trees-b"
$python -m arts collect "${pool[@]}" --split validation --num-problems 300 --first-problem 500 --out "$out/validation"
$python -m arts collect "${pool[@]}" --split test --num-problems 500 --first-problem 500 --out "$out/test-objectives"
$python recipes/objectives.py inner

# 2. Twelve objectives x two sizes x three seeds, all with the same number of steps; a second learning rate as a trial.
seeds=(--seed 0 --seed 1 --seed 2)
train --size 600 "${seeds[@]}"
train --size 2400 "${seeds[@]}"
train --size 2400 --seed 0 --learning-rate 6e-4

# 3. Where does the paper's gain come from? Conservation or not, log or linear, wide or narrow rewards; how the score of a
#    path is made (last, min, mean, product) is in every row.
cells=(--objective rfm:inner_weight=0 --objective rfm:regression=poisson --objective rfm:inner_weight=0,regression=poisson)
train --size 2400 "${seeds[@]}" "${cells[@]}"
train --size 2400 "${seeds[@]}" --reward-right 2 --reward-wrong 0.5 --objective rfm --objective rfm:inner_weight=0
train --size 2400 "${seeds[@]}" --objective rfm:target=bootstrap --objective subtb:length_weight=none \
    --objective mean_flow:regression=squared_log --objective tempered_flow:alpha=0.5

# 4. The test problems, once, and how it transfers: another temperature, five numbers.
$python recipes/objectives.py test --size 600
$python recipes/objectives.py test --size 2400
$python -m arts collect "${pool[@]}" --split test --num-problems 300 --temperature 0.6 --out "$out/test-t06"
$python -m arts collect "${pool[@]}" --split test --num-problems 300 --task countdown:5 --first-problem 500 --out "$out/test-5b"
$python recipes/objectives.py test --size 2400 --pool test-t06
$python recipes/objectives.py test --size 2400 --pool test-5b
$python recipes/objectives_table.py
