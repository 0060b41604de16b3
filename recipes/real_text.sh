#!/usr/bin/env bash
# Verifiers on real rollouts, with a backbone that can be made on a laptop: what can so small a reader tell?
#
#   ARTS_DATA=FOLDER bash recipes/real_text.sh      # FOLDER holds math/, gsm8k/ and rollouts/
#
# COST_LINE
# Every command goes on where it was interrupted; the table is printed by recipes/real_text_table.py and goes into
# docs/experiments.md.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/text}
data=${ARTS_DATA:?the folder of real problems and rollouts}
rollouts=$data/rollouts
gym=$rollouts/rg_easy_math_7models_n19.jsonl.gz
game24=$rollouts/game24_gpt4_cot100.json.gz
amc23=$rollouts/amc23_llama3b_rl_step400_n50.json.gz

# 1. Backbone: MATH without MATH-500, GSM8K's training set, rollouts of Qwen2.5-3B on other problems of reasoning-gym,
# and made-up solutions of other Games of 24. No text and no problem of the sets below is among them.
$python recipes/text_backbone.py "$data/math/math_train.jsonl.gz" "$data/math/math_test.jsonl.gz" \
    "$data/gsm8k/train.jsonl.gz" "$rollouts/rg_algebra_qwen2.5-3b_base_vs_rl_x3.jsonl.gz" \
    "$rollouts/rg_geometry_qwen2.5-3b_base_vs_rl_x3.jsonl.gz" \
    --leave-out "$data/math/math500.jsonl" "$data/gsm8k/test.jsonl.gz" "$amc23" "$gym" "$game24" --out "$out/backbone"
backbone=hf:$out/backbone/model
$python recipes/verdict_verifier.py --backbone "$out/backbone/model" --out "$out/verifier-verdict"

# 2. Rollouts as trees, dealt out to five folds of problems; each policy of reasoning-gym also for itself.
$python -m arts import "$game24" --folds 5 --out "$out/game24"
$python -m arts import "$gym" --pool --folds 5 --out "$out/gym"
$python -m arts import "$gym" --folds 5 --out "$out/gym-policies"
$python -m arts import "$amc23" --folds 5 --num-samples 16 --out "$out/amc23"
$python -m arts import "$rollouts/gsm8k_openai_gpt3_4systems.jsonl.gz" --pool --folds 5 --out "$out/gsm8k"

# 3. Verifiers: a head on the frozen backbone, or all of it, trained on other folds than the one that is tested.
verify() { # SET TEST_FOLD TUNING SEED EPOCHS VALIDATION_SHARE TRAINING_FOLD...
    local set=$1 test=$2 tuning=$3 seed=$4 epochs=$5 share=$6 folds=() fold
    for fold in "${@:7}"; do folds+=("$out/$set/fold-$fold"); done
    $python -m arts train "${folds[@]}" --backbone "$backbone" --tuning "$tuning" --seed "$seed" --epochs "$epochs" \
        --validation-share "$share" --patience 20 --out "$out/verifier-$set-$test-$tuning-$seed"
}
evaluate() { # SET TEST_FOLD NAME=VERIFIER...
    local verifiers=() verifier
    for verifier in "${@:3}"; do verifiers+=(--verifier "${verifier%%=*}=$out/verifier-${verifier#*=}"); done
    $python -m arts evaluate --preset paper --trees "$out/$1/fold-$2" "${verifiers[@]}" --backbone "$backbone" \
        --no-report --out "$out/evaluation-$1-$2"
}

for test in 0 1 2 3 4; do
    others=$(echo 0 1 2 3 4 | tr -d "$test")
    for seed in 0 1; do
        # shellcheck disable=SC2086  # folds are words
        verify game24 "$test" frozen "$seed" 30 0.2 $others
        # shellcheck disable=SC2086
        verify game24 "$test" full "$seed" 4 0.2 $others
    done
    evaluate game24 "$test" verdict=verdict "frozen_0=game24-$test-frozen-0" "frozen_1=game24-$test-frozen-1" \
        "full_0=game24-$test-full-0" "full_1=game24-$test-full-1"
done

# One fold of the larger sets is enough to train on, and one to test.
verify gym 0 frozen 0 20 0.12 1
evaluate gym 0 frozen_0=gym-0-frozen-0
verify amc23 4 frozen 0 30 0.12 0 1 2 3
evaluate amc23 4 frozen_0=amc23-4-frozen-0
verify gsm8k 0 frozen 0 20 0.12 1 2 3 4
evaluate gsm8k 0 frozen_0=gsm8k-0-frozen-0

$python recipes/real_text_table.py --from "$out"
