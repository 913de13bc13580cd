// Looks the tokens of a step up: residual[row] = table[token of row], makes the angles of the rotary embedding, and
// normalises the rows for the first layer as rmsnorm.cu does.
//
// A token at or above 0 is known to the host; below, it is -1 - slot: the token drawn last for that slot, which only
// the device knows. One block a row.

#include "common.cuh"

struct EmbedArguments {
    const int* tokens;       // [rows]
    const int* last_tokens;  // [slots]
    const bf16* table;       // [vocabulary][width]
    float* residual;         // [rows][width]
    const int* positions;    // [rows]
    const double* frequencies; // [pairs], radians a position
    float2* angles;          // [rows][pairs], cosine and sine, both times the magnitude
    const float* norm;       // [width]
    bf16* normed;            // [rows][width]
    int width;
    int pairs;
    float magnitude;
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(256) embed(const EmbedArguments a) {
    __shared__ float scratch[8];
    let_next_begin();
    wait_for_previous();
    const int row = blockIdx.x;
    int token = a.tokens[row];
    if (token < 0) token = a.last_tokens[-1 - token];
    // A request that failed has no token; its row is computed and dropped.
    if (token < 0) token = 0;
    const u32* source = (const u32*)(a.table + size_t(token) * a.width);
    float2* target = (float2*)(a.residual + size_t(row) * a.width);
    float sum = 0.0f;
    for (int index = threadIdx.x; index < a.width / 2; index += blockDim.x) {
        const u32 pair = source[index];
        const float2 value = make_float2(low_float(pair), high_float(pair));
        target[index] = value;
        sum += value.x * value.x + value.y * value.y;
    }
    const float factor = 1.0f / sqrtf(block_sum<8>(sum, scratch) / float(a.width) + a.epsilon);
    u32* normed = (u32*)(a.normed + size_t(row) * a.width);
    for (int index = threadIdx.x; index < a.width / 2; index += blockDim.x) {
        const float2 value = target[index], norm = ((const float2*)a.norm)[index];
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
