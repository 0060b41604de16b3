#!/usr/bin/env bash
# Which search is best for a budget of tokens? The whole experiment of docs/experiments.md on strategies, from a fresh
# clone after `make test`, with the shipped models. Every command goes on where it was interrupted.
#
# Cost on two cores of a shared CPU machine (2026-11-21): about 70 minutes of one core.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/search}
verifier=${VERIFIER:-countdown}
solver="python:recipes/solver_score.py:reach?inner_is_value=true"

search() { # SET TASK SPLIT FIRST ARGUMENTS...
    $python -m arts search --out "$out/$1" --task "$2" --split "$3" --first-problem "$4" --num-problems 200 \
        --verifier "$verifier" "${@:5}"
}
each() { # prefix every strategy with its option
    for name in "$@"; do echo --strategy "$name"; done
}

# 1. Validation: which options, and which strategy to hold `arts` against. One seed.
val=(search validation-4 countdown validation 500)
"${val[@]}" --budget-tokens 300 $(each best-of-n arts arts:give_up=0 dts-star beam:width=2,expand=2 \
    beam:width=2,expand=3 rebase:n=8 rebase:n=8,temperature=0.1 particle-filter:n=8)
"${val[@]}" --budget-tokens 600 $(each best-of-n arts arts:give_up=0 arts:give_up=0.2 arts:give_up=0.8 dts-star \
    beam:width=3,expand=3 beam:width=4,expand=4 rebase:n=16 rebase:n=16,temperature=0.1 particle-filter:n=16)
"${val[@]}" --budget-tokens 1200 $(each best-of-n arts arts:give_up=0 dts-star beam:width=4,expand=4 \
    beam:width=6,expand=4 rebase:n=32 rebase:n=32,temperature=0.1 particle-filter:n=32)

# 2. Test problems that nothing else used, once. Six strategies, three seeds, three budgets.
test4=(search test-4 countdown test 1500)
seeds=(--seed 0 --seed 1 --seed 2)
always=(best-of-n arts dts-star)
"${test4[@]}" "${seeds[@]}" --budget-tokens 300 \
    $(each "${always[@]}" beam:width=2,expand=2 rebase:n=8,temperature=0.1 particle-filter:n=8)
"${test4[@]}" "${seeds[@]}" --budget-tokens 432 $(each best-of-n arts beam:width=3,expand=3) # what best-of-16 takes
"${test4[@]}" "${seeds[@]}" --budget-tokens 600 \
    $(each "${always[@]}" beam:width=4,expand=4 rebase:n=16,temperature=0.1 particle-filter:n=16)
"${test4[@]}" "${seeds[@]}" --budget-tokens 1200 \
    $(each "${always[@]}" beam:width=4,expand=4 rebase:n=32 particle-filter:n=32)
# The others at one budget with one seed.
"${test4[@]}" --budget-tokens 600 $(each arts:give_up=0 self-consistency majority weighted-vote flow-vote \
    dvts:subtrees=3,expand=3 best-first mcts dts flow-sampling:paths=4 value-augmented ets:n=16 global-frontier)
# What best-of-16 and best-of-64 reach, and the whole curve of what can stop at any time.
"${test4[@]}" "${seeds[@]}" $(each best-of-n:n=16 best-of-n:n=64)
"${test4[@]}" "${seeds[@]}" --budget-tokens 1900 --curves $(each arts arts:give_up=0)

# 3. Five numbers, and the ceiling: the exact solver as the verifier.
test5=(search test-5 countdown:5 test 1500)
"${test5[@]}" --budget-tokens 600 $(each "${always[@]}" beam:width=2,expand=2 rebase:n=12 particle-filter:n=12)
"${test5[@]}" --budget-tokens 1200 $(each best-of-n arts)
verifier=$solver
ceiling=(search ceiling-4 countdown test 1500)
"${ceiling[@]}" "${seeds[@]}" --budget-tokens 300 $(each best-of-n arts beam:width=2,expand=2 rebase:n=8)
"${ceiling[@]}" "${seeds[@]}" --budget-tokens 432 $(each best-of-n arts beam:width=3,expand=3 rebase:n=12)
"${ceiling[@]}" "${seeds[@]}" --budget-tokens 600 --budget-tokens 1200 $(each best-of-n arts)

# 4. What is rare: 64 independent draws of the same problems. Then tables and plot.
for size in 4 5; do
    $python -m arts collect --task "countdown:$size" --split test --first-problem 1500 --num-problems 200 \
        --num-samples 64 --pivots none --out "$out/pool-test-$size"
done
$python recipes/search_curves.py --from "$out"
$python recipes/search_curves.py
