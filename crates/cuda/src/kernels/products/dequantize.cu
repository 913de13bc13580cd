// Quantized weights as bfloat16, row by row, for products of many rows. A warp a record.

#include "common.cuh"
#include "quantized.cuh"

struct DequantizeArguments {
    const void* weights;   // a whole matrix, as quantized.cuh says
    bf16* output;          // [row_count][inputs]
    int rows;              // of the matrix
    int inputs;
    int row_first;         // a multiple of 16
    int row_count;
};

extern "C" __global__ void __launch_bounds__(256) dequantize_rows(const DequantizeArguments a) {
    let_next_begin();
    wait_for_previous();
    const QuantizedMatrix matrix(a.weights, a.rows, a.inputs);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int index = blockIdx.x * 8 + threadIdx.x / 32;
    const int tile = index / matrix.steps, step = index % matrix.steps;
    if (tile * 16 >= a.row_count) return;
    const int stored_tile = a.row_first / 16 + tile;
    LaneWeights w;
    read_lane(w, matrix.record(stored_tile, step), matrix.outer(stored_tile, step), lane);
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int row = tile * 16 + half * 8 + g, k = step * 64 + part * 32;
            if (row >= a.row_count || k >= a.inputs) continue;
            float v[8];
            dequantize(v, w, half, part);
            bf16* target = a.output + size_t(row) * a.inputs + step * 64 + first_input(part, t);
            const uint2 first = make_uint2(pack(v[0], v[1]), pack(v[2], v[3]));
            const uint2 second = make_uint2(pack(v[4], v[5]), pack(v[6], v[7]));
            // In assembly, for the compiler takes some of these stores apart.
            if (SECOND == 4) {
                asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(target), "r"(first.x), "r"(first.y),
                             "r"(second.x), "r"(second.y) : "memory");
            } else {
                *(uint2*)target = first;
                *(uint2*)(target + SECOND) = second;
            }
        }
}
