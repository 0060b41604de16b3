#!/usr/bin/env bash
# The paper's main experiment (arXiv 2602.12846, section 4): a frozen Qwen2.5-7B, verifiers on Qwen2.5-1.5B-Instruct trained
# on trees of MATH, chosen from on MATH-500. Every command goes on where it was interrupted; nothing is asked for twice.
#
#   vllm serve Qwen/Qwen2.5-7B --enable-prefix-caching --max-model-len 4096 --max-num-seqs 512   # in another terminal
#   bash recipes/math500_qwen.sh
#
# What it takes, reckoned from token counts and not measured here (one H100-class card; solutions of 450 tokens):
#   trees      7,500 problems x 24 solutions (16 and 8 forks): 70 M generated tokens with shared prefixes, 2-4 hours, 1.5 GB
#   test pool  500 x 16: 3.6 M tokens, 10 minutes
#   verifiers  65 M distinct tokens an epoch, 2 epochs: 0.8 EFLOP with LoRA, 1-2 hours each, 80 MB each; five of them
# What the paper has, on 500 problems with one seed: pass@1 57.7, oracle@16 88.6; best of 16: RM 67.4, PRM 73.8, ARTS 74.6.
# One standard error is 1.9 points, so look at the paired intervals that are printed.
set -euo pipefail
arts=${ARTS:-.venv/bin/python -m arts}
out=${OUT:-runs/math500}
device=${DEVICE:-cuda}
precision=${PRECISION:-bf16} # fp32 for a CPU
generator=${GENERATOR:-"http://127.0.0.1:8000/v1#Qwen/Qwen2.5-7B?max_in_flight=512"}
backbone=${BACKBONE:-hf:models/Qwen2.5-1.5B-Instruct} # a folder: hf download Qwen/Qwen2.5-1.5B-Instruct --local-dir ...
train=${TRAIN_TASK:-"math?rows=train&split=train"}
test=${TEST_TASK:-"math500?split=test"}
num_problems=${NUM_PROBLEMS:-7500}
num_test=${NUM_TEST:-500}
num_samples=${NUM_SAMPLES:-16}
max_new_tokens=${MAX_NEW_TOKENS:-2048}
objectives=${OBJECTIVES:-"rfm pointwise_prm pairwise_rm outcome mean_flow"}
tuned=${TUNED_GENERATOR:-} # a GRPO-trained copy of the generator, where there is one: for the extinction zone

# 1. Nothing of the test set may be in what is trained on, and the server must be able to do what is asked of it.
$arts leakage "$train" "$test"
case $generator in http*) $arts doctor --proposer "$generator" --task "$train" ;; esac

# 2. Trees of the training problems: Sparse Deep Fork, T = 0.6 and top-p 0.95 as in the paper.
sampling=(--temperature 0.6 --top-p 0.95 --max-new-tokens "$max_new_tokens" --num-samples "$num_samples" --device "$device")
collect=(collect --task "$train" --proposer "$generator" "${sampling[@]}" --num-problems "$num_problems" --out "$out/trees")
$arts "${collect[@]}" --dry-run
$arts "${collect[@]}"

# 3. The pool to choose from: N independent solutions of every test problem.
pool=(collect --task "$test" --split test --pivots none "${sampling[@]}" --num-problems "$num_test")
$arts "${pool[@]}" --proposer "$generator" --out "$out/pool"
against=()
if [ -n "$tuned" ]; then
    $arts "${pool[@]}" --proposer "$tuned" --out "$out/pool-tuned"
    against=(--against "$out/pool-tuned")
fi

# 4. Verifiers: the paper's network (LoRA r = 16, MLP head) and rewards (10 and 0.1) for every objective.
verifiers=()
for objective in $objectives; do
    $arts train "$out/trees" --backbone "$backbone" --objective "$objective" --tuning lora --device "$device" \
        --precision "$precision" --out "$out/verifier-$objective"
    verifiers+=(--verifier "$objective=$out/verifier-$objective")
done

# 5. The paper's tables; PRM and RM go by the minimum over steps, as published.
$arts evaluate --preset paper --trees "$out/pool" "${verifiers[@]}" --backbone "$backbone" --device "$device" \
    "${against[@]}" --out "$out/evaluation"

# 6. The same flow guides a search: equal budgets of generated tokens.
first=${objectives%% *}
$arts search --task "$test" --split test --proposer "$generator" --verifier "$out/verifier-$first" --backbone "$backbone" \
    --temperature 0.6 --top-p 0.95 --device "$device" --num-problems "$num_test" \
    --strategy best-of-n --strategy arts --budget-tokens "${BUDGET_TOKENS:-8000}" --out "$out/search"
