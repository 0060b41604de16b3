#!/usr/bin/env bash
# Which objective is best for choosing, and which for guiding? The whole experiment of docs/experiments.md, from a fresh
# clone after `make test`. Needs no model but the shipped proposer. Every command goes on where it was interrupted: rows
# of results/objectives.jsonl that exist are not made again, so a fresh clone with the committed rows has little to do.
#
# Cost on two cores of a shared CPU machine (2026-11-21): trees 15 min; one run 2 min at 600 problems, 3.5 min at 2,400,
# 5 min at 8,000; the test 10 s a verifier. All of it is about 6 hours of one core; PARTS=2 runs two processes.
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
train --size 2400 --seed 0 --learning-rate 6e-4 --objective outcome --objective mean_flow --objective rfm

# 3. Trials: weight on the ends; the best three, the paper's and a heavier weight at 8,000 problems.
train --size 2400 "${seeds[@]}" --objective rfm:leaf_weight=4 --objective mean_flow:leaf_weight=4
train --size 2400 --seed 0 --objective tempered_flow:leaf_weight=4 --objective mc_value:leaf_weight=4 \
    --objective rest_value:leaf_weight=4
train --size 8000 --seed 0 --seed 1 --objective outcome --objective mean_flow:leaf_weight=4 --objective rfm
train --size 8000 --seed 0 --objective log_mean_exp --objective mean_flow:leaf_weight=16

# 4. Where does the paper's gain come from? Conservation or not, log or linear; how the score of a path is made (last, min,
#    mean, product) is in every row. Wider or narrower rewards: add --reward-right 2 --reward-wrong 0.5.
cells=(--objective rfm:inner_weight=0 --objective rfm:regression=poisson --objective rfm:inner_weight=0,regression=poisson)
train --size 2400 "${seeds[@]}" "${cells[@]}"

# 5. The same rollout tokens without forks: more problems, fewer chains. Steps hold as many tokens.
spend=(--seed 0 --seed 1 --objective outcome --objective mean_flow:leaf_weight=4)
train --size 3504 --chains 8 --batch-trees 6 "${spend[@]}"
train --size 7008 --chains 4 --batch-trees 12 "${spend[@]}"

# 6. The test problems, once, and how it transfers: another temperature, another proposer, five numbers.
for size in 600 2400 8000; do $python recipes/objectives.py test --size "$size"; done
other=(--pivots none --num-samples 16 --split test --num-problems 300 --first-problem 500)
$python -m arts collect "${other[@]}" --temperature 0.6 --out "$out/test-t06"
$python -m arts collect "${other[@]}" --task countdown:5 --out "$out/test-5b"
$python recipes/train_countdown_proposer.py --out "$out/proposer-other" --seed 9 --num-traces 120000 --hidden-size 96 \
    --sizes 4:0.85,5:0.15 --num-layers 5 --batch-size 64 --stop-after-s 700 # what it reaches depends on the machine
$python -m arts collect "${other[@]}" --proposer "hf:$out/proposer-other/model" --out "$out/test-other"
names=(--objective rfm --objective outcome --objective mean_flow --objective pointwise_prm --objective pairwise_rm
    --objective log_mean_exp)
for name in test-t06 test-5b test-other; do
    $python recipes/objectives.py test --size 2400 --pool "$name" "${names[@]}"
done
$python recipes/objectives_table.py
