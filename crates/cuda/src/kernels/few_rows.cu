// Products of a matrix with a few rows: output[row][n] = sum over k of input[row][k] × weights[n][k], rows up to
// 8 × COLUMN_TILES. What counts is to read the weights once, at the memory's rate.
//
// A block makes 32 outputs of all rows with mma.m16n8k16: two tiles of 16 weight rows are the A operand, up to 8 input
// rows a column tile of the B operand. Its 8 warps share K out in steps of 64, and their sums are added in shared memory
// in a fixed order. Within a step a lane holds neighbouring values of K where the instruction's layout wants others:
// a sum may be taken in any order, if both operands keep to the same one. So all loads are 16 bytes, straight into
// the registers that the instruction reads.
//
// Weights do not depend on the kernel before, so the first of them are read before waiting for it.
//
// EPILOGUE: 0 bfloat16; 1 float; 2 add to floats; 3 silu(gate) × up in bfloat16, where the second tile is the first's
// rows of `up`, `outputs` rows further down in the matrix.

#include "common.cuh"

#define WARPS 8
#define STEP 64
#define UNROLL 2

struct FewRowsArguments {
    const bf16* weights;  // [outputs][inputs], for epilogue 3 [2 × outputs][inputs]
    const bf16* input;    // [rows][inputs]
    void* output;         // [rows][output_stride]
    const float* bias;    // [outputs] or null; not for epilogue 3
    int rows;
    int outputs;
    int inputs;           // a multiple of 8
    int output_stride;
};

// Weights are read once: they need no place in the first-level cache.
__device__ __forceinline__ uint4 read_once(const bf16* address) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
    return v;
}

__device__ __forceinline__ void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A lane's weights of one step: [tile][row g or g + 8][first or second half].
struct Weights { uint4 part[2][2][2]; };

extern "C" __global__ void __launch_bounds__(32 * WARPS, 2) few_rows(const FewRowsArguments a) {
    __shared__ float sums[WARPS][2][COLUMN_TILES][32][4];
    let_next_begin();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int tile_outputs = EPILOGUE == 3 ? 16 : 32;
    const int first = blockIdx.x * tile_outputs;
    const bf16* row_of[2][2];
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int within = g + 8 * half;
            int output = EPILOGUE == 3 ? first + within : first + 16 * tile + within;
            output = min(output, a.outputs - 1);  // rows past the end are computed and dropped
            if (EPILOGUE == 3 && tile == 1) output += a.outputs;
            row_of[tile][half] = a.weights + size_t(output) * a.inputs + 8 * t;
        }
    const int steps = (a.inputs + STEP - 1) / STEP;
    auto read = [&](Weights& w, int step) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int k = step * STEP + part * 32;
            const bool inside = step < steps && k + 8 * t + 8 <= a.inputs;
#pragma unroll
            for (int tile = 0; tile < 2; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    w.part[tile][half][part] =
                        inside ? read_once(row_of[tile][half] + k) : make_uint4(0, 0, 0, 0);
        }
    };
    float c[2][COLUMN_TILES][4] = {};
    auto multiply = [&](const Weights& w, int step) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int k = step * STEP + part * 32 + 8 * t;
            const bool inside = step < steps && k + 8 <= a.inputs;
#pragma unroll
            for (int column = 0; column < COLUMN_TILES; column++) {
                const int row = column * 8 + g;
                uint4 x = make_uint4(0, 0, 0, 0);
                if (inside && row < a.rows) x = *(const uint4*)(a.input + size_t(row) * a.inputs + k);
#pragma unroll
                for (int tile = 0; tile < 2; tile++) {
                    const uint4 low = w.part[tile][0][part], high = w.part[tile][1][part];
                    multiply_add(c[tile][column], low.x, high.x, low.y, high.y, x.x, x.y);
                    multiply_add(c[tile][column], low.z, high.z, low.w, high.w, x.z, x.w);
                }
            }
        }
    };
    Weights ahead[UNROLL];
#pragma unroll
    for (int i = 0; i < UNROLL; i++) read(ahead[i], warp + WARPS * i);
    wait_for_previous();
    for (int step = warp; step < steps; step += WARPS * UNROLL) {
#pragma unroll
        for (int i = 0; i < UNROLL; i++) {
            const Weights now = ahead[i];
            read(ahead[i], step + WARPS * (UNROLL + i));
            multiply(now, step + WARPS * i);
        }
    }
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int column = 0; column < COLUMN_TILES; column++)
            *(float4*)sums[warp][tile][column][lane] =
                make_float4(c[tile][column][0], c[tile][column][1], c[tile][column][2], c[tile][column][3]);
    __syncthreads();
    // Value i of lane l in tile and column tile: output g + 8 × (i / 2), row 2 × t + i % 2. Threads go along outputs.
    auto total = [&](int tile, int row, int within) {
        const int from = (within % 8) * 4 + (row % 8) / 2, value = (within / 8) * 2 + row % 2;
        float sum = 0.0f;
#pragma unroll
        for (int other = 0; other < WARPS; other++) sum += sums[other][tile][row / 8][from][value];
        return sum;
    };
    for (int index = threadIdx.x; index < tile_outputs * a.rows; index += 32 * WARPS) {
        const int row = index / tile_outputs, place = index % tile_outputs;
        const int output = first + place;
        if (output >= a.outputs) continue;
        float value = total(place / 16, row, place % 16);
        const size_t target = size_t(row) * a.output_stride + output;
        if (EPILOGUE == 3) {
            // The gate is rounded as it is where it passes through memory.
            const float gate = to_float(to_bf16(value)), up = to_float(to_bf16(total(1, row, place)));
            value = gate / (1.0f + __expf(-gate)) * up;
        } else if (a.bias) {
            value += a.bias[output];
        }
        if (EPILOGUE == 0 || EPILOGUE == 3) ((bf16*)a.output)[target] = to_bf16(value);
        if (EPILOGUE == 1) ((float*)a.output)[target] = value;
        if (EPILOGUE == 2) ((float*)a.output)[target] += value;
    }
}
