#!/usr/bin/env bash
# Verifiers on real rollouts, with a backbone that can be made on a laptop: what can so small a reader tell?
#
#   ARTS_DATA=FOLDER bash recipes/real_text.sh      # FOLDER holds math/, gsm8k/ and rollouts/
#
# Cost on two busy cores (2026-11-21): 40 minutes for the backbone, 40 for the verifiers. Every command goes on where it
# was interrupted; the table is printed by recipes/real_text_table.py and goes into docs/experiments.md.
set -euo pipefail
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
out=${OUT:-runs/text}
data=${ARTS_DATA:?the folder of real problems and rollouts}
rollouts=$data/rollouts
gym=$rollouts/rg_easy_math_7models_n19.jsonl.gz

# 1. Backbone: MATH without MATH-500, GSM8K's training set, and the rollouts of four of five folds of reasoning-gym.
$python recipes/text_backbone.py "$data/math/math_train.jsonl.gz" "$data/math/math_test.jsonl.gz" \
    "$data/gsm8k/train.jsonl.gz" "$gym" --leave-out "$data/math/math500.jsonl" --out "$out/backbone"
backbone=hf:$out/backbone/model

# 2. Rollouts as trees, dealt out to five folds of problems.
$python -m arts import "$rollouts/game24_gpt4_cot100.json.gz" --folds 5 --out "$out/game24"
$python -m arts import "$rollouts/amc23_llama3b_rl_step400_n50.json.gz" --folds 5 --num-samples 16 --out "$out/amc23"
$python -m arts import "$rollouts/gsm8k_openai_gpt3_4systems.jsonl.gz" --pool --folds 5 --out "$out/gsm8k"
$python -m arts import "$gym" --policy mistralai_mistral-small-3.1-24b-instruct --folds 5 --out "$out/gym"

# 3. A head on the frozen backbone for each test fold; the last folds of the larger sets are not needed as tests.
verify() { # SET FOLD TUNING EPOCHS
    local folds=() fold
    for fold in 0 1 2 3 4; do [ "$fold" = "$2" ] || folds+=("$out/$1/fold-$fold"); done
    $python -m arts train "${folds[@]}" --backbone "$backbone" --tuning "$3" --epochs "$4" --validation-share 0.12 \
        --patience 20 --out "$out/verifier-$1-$2-$3"
    $python -m arts evaluate --preset paper --trees "$out/$1/fold-$2" --verifier "arts=$out/verifier-$1-$2-$3" \
        --backbone "$backbone" --no-report --out "$out/evaluation-$1-$2-$3"
}
verify gym 0 frozen 10
for test in 0 1 2 3 4; do verify game24 "$test" frozen 30; done
verify amc23 4 frozen 30
verify gsm8k 0 frozen 20

# 4. LoRA on one split.
verify game24 0 lora 2

$python recipes/real_text_table.py --from "$out"
