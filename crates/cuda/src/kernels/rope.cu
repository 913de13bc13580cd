// What happens to queries, keys and values before attention, in one pass over a row: biases are added, heads of queries
// and keys normalised where the model asks for it, queries and keys turned (Su et al. 2021), keys and values stored in
// their pages. Queries stay where they are.
//
// One warp a head; a block has 8 warps and goes through heads of one row. HEAD_DIM is a macro.

#include "common.cuh"

struct RopeArguments {
    bf16* qkv;               // [rows][stride]: query heads, key heads, value heads
    const float2* angles;    // [rows][pairs]
    const int* places;       // [rows]: block × 16 + offset
    bf16* keys;              // [blocks][kv_heads][16][HEAD_DIM]
    bf16* values;            // the same
    const float* bias;       // [stride] or null
    const float* query_norm; // [HEAD_DIM] or null
    const float* key_norm;   // [HEAD_DIM] or null
    int stride;
    int heads;
    int kv_heads;
    int pairs;               // turned values of a head / 2
    int adjacent;            // pairs are neighbours (1), or half of the turned values apart (0)
    float epsilon;
};

// Values of a head that a lane holds: lane, lane + 32, ...
#define PARTS ((HEAD_DIM + 31) / 32)

extern "C" __global__ void __launch_bounds__(256) rope_store(const RopeArguments a) {
    __shared__ float heads_in_work[8][HEAD_DIM];
    let_next_begin();
    wait_for_previous();
    const int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y * 8 + warp;
    if (head >= a.heads + 2 * a.kv_heads) return;
    bf16* source = a.qkv + size_t(row) * a.stride + head * HEAD_DIM;
    float* work = heads_in_work[warp];
    float part[PARTS];
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        const int index = lane + 32 * i;
        part[i] = 0.0f;
        if (index < HEAD_DIM) {
            part[i] = to_float(source[index]);
            if (a.bias) part[i] += a.bias[head * HEAD_DIM + index];
        }
        squares += part[i] * part[i];
    }
    const bool is_value = head >= a.heads + a.kv_heads;
    const bool is_query = head < a.heads;
    const float* norm = is_value ? nullptr : is_query ? a.query_norm : a.key_norm;
    if (norm) {
        for (int distance = 16; distance > 0; distance /= 2)
            squares += __shfl_xor_sync(0xffffffffu, squares, distance);
        const float factor = 1.0f / sqrtf(squares / HEAD_DIM + a.epsilon);
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            if (lane + 32 * i < HEAD_DIM) part[i] *= factor * norm[lane + 32 * i];
    }
    if (!is_value) {
#pragma unroll
        for (int i = 0; i < PARTS; i++)
            if (lane + 32 * i < HEAD_DIM) work[lane + 32 * i] = part[i];
        __syncwarp();
        const float2* angles = a.angles + size_t(row) * a.pairs;
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const int index = lane + 32 * i;
            if (index >= 2 * a.pairs) continue;
            // Which pair, and whether this is its second value.
            const int pair = a.adjacent ? index / 2 : index % a.pairs;
            const bool second = a.adjacent ? index % 2 : index >= a.pairs;
            const int partner = a.adjacent ? index ^ 1 : (second ? index - a.pairs : index + a.pairs);
            const float2 angle = angles[pair];
            part[i] = second ? work[index] * angle.x + work[partner] * angle.y
                             : work[index] * angle.x - work[partner] * angle.y;
        }
    }
    bf16* target = source;
    if (!is_query) {
        const int kv_head = is_value ? head - a.heads - a.kv_heads : head - a.heads;
        const int place = a.places[row];
        bf16* pool = is_value ? a.values : a.keys;
        target = pool + ((size_t(place / 16) * a.kv_heads + kv_head) * 16 + place % 16) * HEAD_DIM;
    }
#pragma unroll
    for (int i = 0; i < PARTS; i++)
        if (lane + 32 * i < HEAD_DIM) target[lane + 32 * i] = to_bf16(part[i]);
}
