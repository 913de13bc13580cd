// Counts the tokens of a request for its penalties: how often each is in the output, and, in the highest bit, whether
// it is in the prompt. One block.

#include "common.cuh"
#include "sampling.cuh"

struct CountArguments {
    const int* tokens;   // [length]: prompt, then output
    u32* counts;         // [vocabulary]
    int prompt_length;
    int length;
    int vocabulary;
};

extern "C" __global__ void __launch_bounds__(1024) count_tokens(const CountArguments a) {
    let_next_begin();
    wait_for_previous();
    for (int token = threadIdx.x; token < a.vocabulary; token += 1024) a.counts[token] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a.length; i += 1024) {
        if (i < a.prompt_length)
            atomicOr(&a.counts[a.tokens[i]], IN_PROMPT);
        else
            atomicAdd(&a.counts[a.tokens[i]], 1u);
    }
}
