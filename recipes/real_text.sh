#!/usr/bin/env bash
# Verifiers on real rollouts, with a backbone that can be made on a laptop: what can so small a reader tell?
#
#   ARTS_DATA=FOLDER bash recipes/real_text.sh      # FOLDER holds math/, gsm8k/ and rollouts/
#
# Cost in processor time of one core (2026-11-21): 13 minutes for the backbone, 5 for Game of 24, about 5 for reasoning-gym.
# Not run again since the backbone changed: AMC23 and GSM8K.
# Every command goes on where it was interrupted; the table is printed by recipes/real_text_table.py and goes into
# docs/experiments.md.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/text}
data=${ARTS_DATA:?the folder of real problems and rollouts}
rollouts=$data/rollouts
gym_all=$rollouts/rg_easy_math_7models_n19.jsonl.gz
gym=$out/gym-short.jsonl
game24=$rollouts/game24_gpt4_cot100.json.gz
amc23=$rollouts/amc23_llama3b_rl_step400_n50.json.gz

# 1. Backbone: MATH without MATH-500, GSM8K's training set, rollouts of Qwen2.5-3B on other problems of reasoning-gym,
# and made-up solutions of other Games of 24. No text and no problem of the sets below is among them.
$python recipes/text_backbone.py "$data/math/math_train.jsonl.gz" "$data/math/math_test.jsonl.gz" \
    "$data/gsm8k/train.jsonl.gz" "$rollouts/rg_algebra_qwen2.5-3b_base_vs_rl_x3.jsonl.gz" \
    "$rollouts/rg_geometry_qwen2.5-3b_base_vs_rl_x3.jsonl.gz" \
    --leave-out "$data/math/math500.jsonl" "$data/gsm8k/test.jsonl.gz" "$amc23" "$gym_all" "$game24" --out "$out/backbone"
backbone=hf:$out/backbone/model
$python recipes/verdict_verifier.py --backbone "$out/backbone/model" --out "$out/verifier-verdict"

# 2. Rollouts as trees, dealt out to folds of problems. Of reasoning-gym the 17 tasks whose solutions have at most 600
# characters on average: reading the long ones takes an hour. Each of its policies also stands for itself.
short="complex_arithmetic|simple_equations|polynomial_equations|basic_arithmetic|bitwise_arithmetic|chain_sum"
short+="|decimal_arithmetic|decimal_chain_sum|gcd|gsm_symbolic|lcm|leg_counting|number_format|power_function"
short+="|prime_factorization|products|simple_geometry"
gzip -dc "$gym_all" | grep -E "\"task\": \"[a-z]+/($short)\"" > "$gym"
$python -m arts import "$game24" --folds 5 --out "$out/game24"
$python -m arts import "$gym" --pool --folds 20 --out "$out/gym"
$python -m arts import "$gym" --folds 5 --out "$out/gym-policies"
$python -m arts import "$amc23" --folds 5 --num-samples 16 --out "$out/amc23"
$python -m arts import "$rollouts/gsm8k_openai_gpt3_4systems.jsonl.gz" --pool --folds 5 --out "$out/gsm8k"

# 3. Verifiers: a head on the frozen backbone, trained on other folds than the one that is tested.
verify() { # NAME EPOCHS VALIDATION_SHARE SEED TRAINING_FOLD...
    local set=${1%%-*} folds=() fold
    for fold in "${@:5}"; do folds+=("$out/$set/fold-$fold"); done
    $python -m arts train "${folds[@]}" --backbone "$backbone" --tuning frozen --epochs "$2" --validation-share "$3" \
        --patience 20 --seed "$4" --out "$out/verifier-$1-$4"
}
evaluate() { # SET TEST_FOLD NAME=VERIFIER...
    local verifiers=() verifier
    for verifier in "${@:3}"; do verifiers+=(--verifier "${verifier%%=*}=$out/verifier-${verifier#*=}"); done
    $python -m arts evaluate --preset paper --trees "$out/$1/fold-$2" "${verifiers[@]}" --backbone "$backbone" \
        --no-report --out "$out/evaluation-$1-$2"
}

for test in 0 1 2 3 4; do
    # shellcheck disable=SC2046  # folds are words
    for seed in 0 1; do verify "game24-$test" 30 0.2 "$seed" $(echo 0 1 2 3 4 | tr -d "$test"); done
    evaluate game24 "$test" verdict=verdict "frozen_0=game24-$test-0" "frozen_1=game24-$test-1"
done

# Two folds of twenty are enough to train on; these four are the first of five.
for seed in 0 1; do verify gym 20 0.2 "$seed" 1 6; done
for test in 0 5 10 15; do evaluate gym "$test" frozen_0=gym-0 frozen_1=gym-1; done

for test in 0 1 2 3 4; do
    # shellcheck disable=SC2046
    verify "amc23-$test" 30 0.12 0 $(echo 0 1 2 3 4 | tr -d "$test")
    evaluate amc23 "$test" "frozen_0=amc23-$test-0"
done
verify gsm8k 20 0.12 0 1 2 3 4
evaluate gsm8k 0 frozen_0=gsm8k-0

$python recipes/real_text_table.py --from "$out"
