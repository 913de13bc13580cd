// Draws a token from each row of logits: the most likely one, or one at random among those that top-k, top-p and min-p
// leave. One block a row; no sort.
//
// Weights are e^((logit - largest) / temperature) in fixed point (2^-31 of the heaviest), so that sums do not depend on
// the order in which threads add: the same logits, parameters, seed and position give the same token, always. Cuts
// are found digit by digit: masses of all candidates by the leading 11 bits of their rank, then by the next 11 within
// the digit that the cut falls into, then by the last 10. Candidates are drawn in order of their ids.

#include "common.cuh"
#include "sampling.cuh"

#define THREADS 1024
#define TILES 64       // stretches of the vocabulary whose masses are known apart
#define DIGITS 2048
#define LIMITLESS __int_as_float(0x7f800000)

// Rises with the float.
__device__ __forceinline__ u32 ordered(float value) {
    const u32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A number in [0, 1) of a key and a counter: SplitMix64's finaliser (Steele, Lea and Flood 2014) of the key, then of
// its sum with the counter.
__device__ __forceinline__ u64 mix(u64 z) {
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}
__device__ __forceinline__ double uniform(u64 key, u64 counter) {
    return double(mix(mix(key) + counter * 0x9e3779b97f4a7c15ULL) >> 11) / 9007199254740992.0;
}

// What is kept: candidates of a higher rank, and of this rank those up to a place.
struct Cut { u32 rank; int place; };

struct Shared {
    float largest[32];
    int index[32];
    int finite[32];
    u32 low[DIGITS], high[DIGITS];  // masses by digit, in two words
    u64 mass[TILES][32];            // by stretch and warp
    u64 prefix[32];
    u64 before, known;
    int found, place;
};

__device__ __forceinline__ u64 warp_sum(u64 value) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// What is left to do with a token that was drawn.
__device__ __forceinline__ void finish(const SampleArguments& a, const SampleRow& row, int token) {
    a.tokens[blockIdx.x] = token;
    a.last_tokens[row.slot] = token;
    if (token < 0) return;
    u32* count = a.counts + size_t(row.slot) * a.vocabulary + token;
    const u32 before = is_penalised(row) ? *count : 0;
    if (row.logprobs >= 0) {
        float logit = without_penalties(a.logits[size_t(blockIdx.x) * a.vocabulary + token], row, before);
        for (int i = row.bias_first; i < row.bias_first + row.bias_count; i++)
            if (a.biases[i].token == token) logit -= a.biases[i].bias;
        a.reports[blockIdx.x].logprob = logit - a.reports[blockIdx.x].logprob;
    }
    if (is_penalised(row)) *count = before + 1;
}

extern "C" __global__ void __launch_bounds__(THREADS) draw(const SampleArguments a) {
    __shared__ Shared s;
    let_next_begin();
    wait_for_previous();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float* logits = a.logits + size_t(blockIdx.x) * a.vocabulary;
    const SampleRow row = a.rows[blockIdx.x];

    float largest = -LIMITLESS;
    int index = 0;
    bool finite = true;
    for (int i = threadIdx.x; i < a.vocabulary; i += THREADS) {
        const float logit = logits[i];
        finite &= fabsf(logit) < LIMITLESS;
        if (logit > largest) largest = logit, index = i;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
        const int other_index = __shfl_xor_sync(0xffffffffu, index, distance);
        if (other > largest || (other == largest && other_index < index)) largest = other, index = other_index;
    }
    finite = __all_sync(0xffffffffu, finite);
    if (lane == 0) s.largest[warp] = largest, s.index[warp] = index, s.finite[warp] = finite;
    __syncthreads();
    for (int other = 0; other < 32; other++) {
        if (s.largest[other] > largest || (s.largest[other] == largest && s.index[other] < index))
            largest = s.largest[other], index = s.index[other];
        finite &= s.finite[other] != 0;
    }
    if (!finite || row.scale == 0.0f) {
        if (threadIdx.x == 0) finish(a, row, finite ? index : -1);
        return;
    }

    Cut cut = {0, a.vocabulary};
    float floor_weight = 0.0f;
    auto weight = [&](float logit) { return exp2f((logit - largest) * row.scale * 1.44269504f); };
    auto mass = [&](int i, float logit) -> u32 {
        const u32 rank = ordered(logit);
        const float w = weight(logit);
        const bool kept = (rank > cut.rank || (rank == cut.rank && i <= cut.place)) && w >= floor_weight;
        return kept ? u32(w * 2147483648.0f) : 0u;
    };
    // Masses of the stretches; every thread gets their sum.
    const int stretch = ((a.vocabulary + TILES - 1) / TILES + THREADS - 1) / THREADS * THREADS;
    auto survey = [&]() -> u64 {
        __syncthreads();
        u64 own = 0;
        for (int tile = 0; tile < TILES; tile++) {
            u64 sum = 0;
            for (int i = tile * stretch + threadIdx.x; i < min((tile + 1) * stretch, a.vocabulary); i += THREADS)
                sum += mass(i, logits[i]);
            sum = warp_sum(sum);
            if (lane == 0) s.mass[tile][warp] = sum;
            own += sum;
        }
        if (lane == 0) s.prefix[warp] = own;
        __syncthreads();
        u64 all = 0;
        for (int other = 0; other < 32; other++) all += s.prefix[other];
        return all;
    };
    // Narrows the cut to the heaviest candidates whose masses reach the target; `counts` takes each as 1.
    auto narrow = [&](u64 target, bool counts) {
        u32 known = 0;
        u64 before = 0;
        const Cut old = cut;
        const int shifts[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
        for (int pass = 0; pass < 3; pass++) {
            __syncthreads();
            for (int i = threadIdx.x; i < DIGITS; i += THREADS) s.low[i] = s.high[i] = 0;
            if (threadIdx.x == 0) s.found = 0, s.before = before;
            __syncthreads();
            const int shift = shifts[pass];
            for (int i = threadIdx.x; i < a.vocabulary; i += THREADS) {
                const float logit = logits[i];
                const u32 rank = ordered(logit);
                if (pass > 0 && (rank >> (shift + bits[pass])) != known) continue;
                u32 add = mass(i, logit);
                if (counts) add = add > 0 || rank > old.rank || (rank == old.rank && i <= old.place);
                if (add == 0) continue;
                const u32 digit = (rank >> shift) & ((1u << bits[pass]) - 1);
                if (atomicAdd(&s.low[digit], add) > 0xffffffffu - add) atomicAdd(&s.high[digit], 1u);
            }
            __syncthreads();
            // The first warp walks digits from the heaviest down, 32 at a time.
            if (warp == 0) {
                u64 sum = before;
                for (int top = (1 << bits[pass]) - 1; top >= 0; top -= 32) {
                    const int digit = top - lane;
                    const u64 own = u64(s.high[digit]) << 32 | s.low[digit];
                    u64 up_to = own;
                    for (int distance = 1; distance < 32; distance *= 2) {
                        const u64 other = __shfl_up_sync(0xffffffffu, up_to, distance);
                        if (lane >= distance) up_to += other;
                    }
                    const u32 reached = __ballot_sync(0xffffffffu, sum + up_to >= target);
                    if (reached) {
                        if (lane == __ffs(reached) - 1) s.found = digit, s.before = sum + up_to - own;
                        break;
                    }
                    sum += __shfl_sync(0xffffffffu, up_to, 31);
                }
            }
            __syncthreads();
            known = known << bits[pass] | u32(s.found);
            before = s.before;
        }
        // Of equal candidates at the edge, those with the lowest ids are kept until the target is reached.
        __syncthreads();
        if (threadIdx.x == 0) s.place = a.vocabulary;
        __syncthreads();
        if (warp == 0) {
            u64 sum = before;
            for (int start = 0; start < a.vocabulary; start += 32) {
                const int i = start + lane;
                const bool equal = i < a.vocabulary && ordered(logits[i]) == known;
                u64 add = 0;
                if (equal) {
                    add = mass(i, logits[i]);
                    if (counts) add = 1;
                }
                const u32 candidates = __ballot_sync(0xffffffffu, equal);
                if (!candidates) continue;
                u64 up_to = add;
                for (int distance = 1; distance < 32; distance *= 2) {
                    const u64 other = __shfl_up_sync(0xffffffffu, up_to, distance);
                    if (lane >= distance) up_to += other;
                }
                const u32 reached = __ballot_sync(0xffffffffu, equal && sum + up_to >= target);
                if (reached) {
                    if (lane == 0) s.place = start + __ffs(reached) - 1;
                    break;
                }
                sum += __shfl_sync(0xffffffffu, up_to, 31);
            }
        }
        __syncthreads();
        cut = Cut{known, s.place};
    };
    if (row.top_k > 0 && row.top_k < a.vocabulary) narrow(u64(row.top_k), true);
    if (row.top_p < 1.0f) {
        const u64 all = survey();
        const u64 target = u64(double(row.top_p) * double(all));
        narrow(target > 0 ? target : 1, false);
    }
    // The heaviest candidate weighs 1.
    if (row.min_p > 0.0f) floor_weight = row.min_p;

    const u64 all = survey();
    u64 target = u64(uniform(row.seed, row.position) * double(all));
    if (target >= all) target = all - 1;
    // The stretch, then within it the tile of neighbouring ids, then the candidate.
    int tile = 0;
    u64 before = 0;
    for (; tile < TILES - 1; tile++) {
        u64 sum = 0;
        for (int other = 0; other < 32; other++) sum += s.mass[tile][other];
        if (before + sum > target) break;
        before += sum;
    }
    for (int start = tile * stretch; start < (tile + 1) * stretch; start += THREADS) {
        const int i = start + threadIdx.x;
        u64 up_to = i < a.vocabulary ? mass(i, logits[i]) : 0;
        const u64 own = up_to;
        for (int distance = 1; distance < 32; distance *= 2) {
            const u64 other = __shfl_up_sync(0xffffffffu, up_to, distance);
            if (lane >= distance) up_to += other;
        }
        __syncthreads();
        if (lane == 31) s.prefix[warp] = up_to;
        __syncthreads();
        u64 below = before, total = before;
        for (int other = 0; other < 32; other++) {
            if (other < warp) below += s.prefix[other];
            total += s.prefix[other];
        }
        if (total > target) {
            if (own > 0 && below + up_to - own <= target && target < below + up_to) finish(a, row, i);
            return;
        }
        before = total;
    }
}
