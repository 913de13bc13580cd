// Looks the tokens of a step up: residual[row] = table[token of row], makes the angles of the rotary embedding, and
// normalises the rows for the first layer as rmsnorm.cu does.
//
// A token at or above 0 is known to the host; below, it is -1 - slot: the token drawn last for that slot, which only
// the device knows. One block a row.

// The table may be quantized (quantized.cuh).

#include "common.cuh"
#ifdef BITS
#include "quantized.cuh"
#endif

struct EmbedArguments {
    const int* tokens;       // [rows]
    const int* last_tokens;  // [slots]
    const void* table;       // [vocabulary][width]
    float* residual;         // [rows][width]
    const int* positions;    // [rows]
    const double* frequencies; // [pairs], radians a position
    float2* angles;          // [rows][pairs], cosine and sine, both times the magnitude
    const float* norm;       // [width]
    bf16* normed;            // [rows][width]
    int vocabulary;
    int width;
    int pairs;
    float magnitude;
    float epsilon;
};

// Writes a row of the table as floats, and gives the sum of squares of what this thread wrote.
__device__ __forceinline__ float look_up(const EmbedArguments& a, int token, float* target) {
    float sum = 0.0f;
#ifdef BITS
    const QuantizedMatrix table(a.table, a.vocabulary, a.width);
    const int tile = token / 16, half = token % 16 / 8, g = token % 8;
    for (int index = threadIdx.x; index < table.steps * 8; index += blockDim.x) {
        const int step = index / 8, part = index / 4 % 2, t = index % 4;
        if (step * 64 + part * 32 >= a.width) continue;
        LaneWeights w;
        read_lane(w, table.record(tile, step), table.outer(tile, step), 4 * g + t);
        float values[8];
        // Indices that the compiler knows keep the words in registers.
        if (half) part ? dequantize(values, w, 1, 1) : dequantize(values, w, 1, 0);
        else part ? dequantize(values, w, 0, 1) : dequantize(values, w, 0, 0);
        float* first = target + step * 64 + first_input(part, t);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            first[i % 4 + i / 4 * SECOND] = values[i];
            sum += values[i] * values[i];
        }
    }
#else
    const u32* source = (const u32*)((const bf16*)a.table + size_t(token) * a.width);
    for (int index = threadIdx.x; index < a.width / 2; index += blockDim.x) {
        const u32 pair = source[index];
        const float2 value = make_float2(low_float(pair), high_float(pair));
        ((float2*)target)[index] = value;
        sum += value.x * value.x + value.y * value.y;
    }
#endif
    return sum;
}

extern "C" __global__ void __launch_bounds__(256) embed(const EmbedArguments a) {
    __shared__ float scratch[8];
    let_next_begin();
    wait_for_previous();
    const int row = blockIdx.x;
    int token = a.tokens[row];
    if (token < 0) token = a.last_tokens[-1 - token];
    // A request that failed has no token; its row is computed and dropped.
    if (token < 0) token = 0;
    float* target = a.residual + size_t(row) * a.width;
    const float sum = look_up(a, token, target);
    const float factor = 1.0f / sqrtf(block_sum<8>(sum, scratch) / float(a.width) + a.epsilon);
    u32* normed = (u32*)(a.normed + size_t(row) * a.width);
    for (int index = threadIdx.x; index < a.width / 2; index += blockDim.x) {
        const float2 value = ((const float2*)target)[index], norm = ((const float2*)a.norm)[index];
        normed[index] = pack(value.x * factor * norm.x, value.y * factor * norm.y);
    }
    for (int pair = threadIdx.x; pair < a.pairs; pair += blockDim.x) {
        // In double precision and in half turns, so that the last of many positions is as exact as the first.
        const double half_turns = double(a.positions[row]) * a.frequencies[pair] * 0.31830988618379067154;
        const float rest = float(half_turns - 2.0 * floor(half_turns * 0.5));
        float sine, cosine;
        sincospif(rest, &sine, &cosine);
        a.angles[size_t(row) * a.pairs + pair] = make_float2(cosine * a.magnitude, sine * a.magnitude);
    }
}
