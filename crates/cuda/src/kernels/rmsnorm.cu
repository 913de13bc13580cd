// RMSNorm (Zhang and Sennrich 2019): output[row] = input[row] / sqrt(mean of squares + epsilon) × weight, rounded to
// bfloat16. With `rows`, the input row of output row r is rows[r]. One block a row.

#include "common.cuh"

struct RmsNormArguments {
    const float* input;   // [..][width]
    const float* weight;  // [width]
    bf16* output;         // [rows][width]
    const int* rows;      // [rows] or null
    int width;            // a multiple of 4
    float epsilon;
};

extern "C" __global__ void __launch_bounds__(256) rmsnorm(const RmsNormArguments a) {
    __shared__ float scratch[8];
    let_next_begin();
    wait_for_previous();
    const int row = a.rows ? a.rows[blockIdx.x] : blockIdx.x;
    const float4* input = (const float4*)(a.input + size_t(row) * a.width);
    const float4* weight = (const float4*)a.weight;
    uint2* output = (uint2*)(a.output + size_t(blockIdx.x) * a.width);
    const int quads = a.width / 4;
    float4 kept[4];  // the first 4096 values stay in registers
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const int index = threadIdx.x + 256 * part;
        kept[part] = index < quads ? input[index] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float4 v = kept[part];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    for (int index = threadIdx.x + 1024; index < quads; index += 256) {
        const float4 v = input[index];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    const float mean = block_sum<8>(sum, scratch) / float(a.width);
    const float factor = 1.0f / sqrtf(mean + a.epsilon);
    auto write = [&](int index, float4 v) {
        const float4 w = weight[index];
        output[index] = make_uint2(pack(v.x * factor * w.x, v.y * factor * w.y),
                                   pack(v.z * factor * w.z, v.w * factor * w.w));
    };
#pragma unroll
    for (int part = 0; part < 4; part++) {
        const int index = threadIdx.x + 256 * part;
        if (index < quads) write(index, kept[part]);
    }
    for (int index = threadIdx.x + 1024; index < quads; index += 256) write(index, input[index]);
}
