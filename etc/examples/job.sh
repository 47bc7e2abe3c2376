#!/bin/bash
#SBATCH --job-name=summaries
#SBATCH --time=00:10:00
#SBATCH --model=smollm2
#SBATCH --model-tokens=20000
#
# A batch job that uses a language model and no GPU of its own.  The batch script has the key in its
# environment; so has every srun step in it.

ask() {
    curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
        --header "Authorization: Bearer $OPENAI_API_KEY" \
        --header "Content-Type: application/json" \
        --data "{\"model\": \"$MODELPOOL_MODEL\", \"max_tokens\": 150, \"temperature\": 0,
                 \"messages\": [{\"role\": \"user\", \"content\": \"$1\"}]}"
    echo
}

ask "Name three uses of copper, in one sentence."
srun --ntasks=1 bash -c "$(declare -f ask); ask 'What is the boiling point of water in Celsius?'"
