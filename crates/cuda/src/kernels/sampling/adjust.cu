// Before tokens are drawn: reports the log-probabilities of the likeliest tokens, of the model's own logits; then
// changes logits by biases, penalties and bans, in this order. One block a row; rows that want nothing of this end at
// once.

#include "common.cuh"
#include "sampling.cuh"

#define THREADS 1024
#define WARP_COUNT (THREADS / 32)
#define LOWEST (-3.402823466e+38f)

struct Candidate { float logit; int token; };

__device__ __forceinline__ bool is_before(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// The likeliest candidate of a block; every thread gets it.
__device__ Candidate likeliest(Candidate own, Candidate* scratch) {
    for (int distance = 16; distance > 0; distance /= 2) {
        const Candidate other = {__shfl_xor_sync(0xffffffffu, own.logit, distance),
                                 __shfl_xor_sync(0xffffffffu, own.token, distance)};
        if (is_before(other, own)) own = other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = own;
    __syncthreads();
    for (int warp = 0; warp < WARP_COUNT; warp++)
        if (is_before(scratch[warp], own)) own = scratch[warp];
    return own;
}

__device__ void report(const SampleArguments& a, const float* logits, int count) {
    __shared__ Candidate scratch[WARP_COUNT];
    __shared__ float sums[WARP_COUNT];
    const int none = 0x7fffffff;
    // A thread's likeliest candidate after the one that is taken.
    auto best_after = [&](Candidate taken) {
        Candidate best = {LOWEST, none};
        for (int token = threadIdx.x; token < a.vocabulary; token += THREADS) {
            const Candidate candidate = {logits[token], token};
            if (is_before(taken, candidate) && is_before(candidate, best)) best = candidate;
        }
        return best;
    };
    Candidate own = best_after(Candidate{__int_as_float(0x7f800000), -1});
    Candidate first = likeliest(own, scratch);
    float sum = 0.0f;
    for (int token = threadIdx.x; token < a.vocabulary; token += THREADS)
        sum += __expf(logits[token] - first.logit);
    const float log_total = first.logit + logf(block_sum<WARP_COUNT>(sum, sums));
    Report& target = a.reports[blockIdx.x];
    if (threadIdx.x == 0) target.logprob = log_total;
    for (int place = 0; place < min(count, LOGPROBS_MAX); place++) {
        if (place > 0) first = likeliest(own, scratch);
        if (threadIdx.x == 0) {
            target.top[place].token = first.token;
            target.top[place].logprob = first.logit - log_total;
        }
        if (own.token == first.token) own = best_after(first);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) adjust(const SampleArguments a) {
    let_next_begin();
    wait_for_previous();
    const SampleRow row = a.rows[blockIdx.x];
    float* logits = a.logits + size_t(blockIdx.x) * a.vocabulary;
    if (row.logprobs >= 0) report(a, logits, row.logprobs);
    __syncthreads();
    const TokenBias* biases = a.biases + row.bias_first;
    for (int i = threadIdx.x; i < row.bias_count; i += THREADS) logits[biases[i].token] += biases[i].bias;
    if (is_penalised(row)) {
        __syncthreads();
        const u32* counts = a.counts + size_t(row.slot) * a.vocabulary;
        for (int token = threadIdx.x; token < a.vocabulary; token += THREADS)
            if (counts[token]) logits[token] = with_penalties(logits[token], row, counts[token]);
    }
    __syncthreads();
    // Finite, for whoever looks whether all logits are.
    for (int i = threadIdx.x; i < row.ban_count; i += THREADS) logits[biases[row.bias_count + i].token] = LOWEST;
}
