// Products of a matrix with up to 8 rows: output[row][n] = sum over k of input[row][k] × weights[n][k]. What counts is
// to read the weights once, at the memory's rate.
//
// A block takes tiles of 16 outputs in turn, of all rows, with mma.m16n8k16: the weights are the A operand, the input
// rows the B operand. Its 8 warps share K out in steps of 64, and their sums are added in shared
// memory in a fixed order. Within a step a lane holds neighbouring values of K where the instruction's layout wants
// others: a sum may be taken in any order, if both operands keep to the same one. So all loads are 16 bytes, straight
// into the registers that the instruction reads. Each warp reads UNROLL steps ahead, past the end of a tile into the next
// one, so that memory never waits for the sums.
//
// Weights do not depend on the kernel before, so the first of them are read before waiting for it. A block is given so
// much shared memory that no two are on a multiprocessor at once: where kernels overlap, two blocks of one kernel would
// else find room on the multiprocessors that are free first, and leave others without.
//
// A norm before the product (Zhang and Sennrich 2019) is taken apart: its weights are in the input already, and its
// factor, one number a row, is applied to the sums. The factor comes from sums of squares that the product before left,
// one for each of its tiles. So no kernel is needed between two products.
//
// EPILOGUE: 0 bfloat16; 1 float; 2 add to floats, and leave them for the next norm; 3 silu(gate) × up in bfloat16, with
// a second tile of weights, the same rows of `up`, `outputs` rows further down in the matrix.

#include "common.cuh"

#define WARPS 8
#define STEP 64
#define ROWS 8
#define TILES (EPILOGUE == 3 ? 2 : 1)
#define UNROLL (EPILOGUE == 3 ? 2 : 4)

struct FewRowsArguments {
    const bf16* weights;   // [outputs][inputs], for epilogue 3 [2 × outputs][inputs]
    const bf16* input;     // [rows][inputs]
    const float* squares;  // [rows][square_count], whose sums are those of the input's squares before its norm; or null
    void* output;          // [rows][output_stride]
    const float* bias;     // [outputs] or null; not for epilogue 3
    const float* next_norm;  // [outputs], for epilogue 2: weights of the norm after it; or null
    bf16* next_input;      // [rows][outputs]: what was added up, times the next norm's weights
    float* next_squares;   // [rows][tiles]: the sum of squares of each tile
    int rows;
    int outputs;
    int inputs;            // a multiple of 8
    int output_stride;
    int square_count;
    float epsilon;
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
struct Weights { uint4 part[TILES][2][2]; };
// A lane's inputs of one step: [first or second half].
struct Inputs { uint4 part[2]; };

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) few_rows(const FewRowsArguments a) {
    __shared__ float sums[2][WARPS][TILES][32][4];
    __shared__ float factors[ROWS];
    let_next_begin();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int tiles = (a.outputs + 15) / 16;
    const int steps = (a.inputs + STEP - 1) / STEP;
    const int rounds = (steps + WARPS * UNROLL - 1) / (WARPS * UNROLL);  // of a tile

    // The next step to read: its tile, its round there, and where the rows of its tile are.
    int read_tile = blockIdx.x, read_round = 0;
    const bf16* row_of[TILES][2];
    auto open = [&]() {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // Rows past the end are computed and dropped.
                const int output = min(read_tile * 16 + g + 8 * half, a.outputs - 1) + tile * a.outputs;
                row_of[tile][half] = a.weights + size_t(output) * a.inputs + 8 * t;
            }
    };
    auto read = [&](Weights& w, int i) {
        const int step = (read_round * UNROLL + i) * WARPS + warp;
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int k = step * STEP + part * 32;
            const bool inside = read_tile < tiles && k + 8 * t + 8 <= a.inputs;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    w.part[tile][half][part] =
                        inside ? read_once(row_of[tile][half] + k) : make_uint4(0, 0, 0, 0);
        }
    };
    auto advance = [&]() {
        if (++read_round < rounds) return;
        read_round = 0;
        read_tile += gridDim.x;
        open();
    };
    auto read_inputs = [&](Inputs& x, int step) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int k = step * STEP + part * 32 + 8 * t;
            const bool inside = k + 8 <= a.inputs && g < a.rows;
            x.part[part] = inside ? *(const uint4*)(a.input + size_t(g) * a.inputs + k) : make_uint4(0, 0, 0, 0);
        }
    };
    float c[TILES][4];
    auto multiply = [&](const Weights& w, const Inputs& inputs) {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const uint4 x = inputs.part[part];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint4 low = w.part[tile][0][part], high = w.part[tile][1][part];
                multiply_add(c[tile], low.x, high.x, low.y, high.y, x.x, x.y);
                multiply_add(c[tile], low.z, high.z, low.w, high.w, x.z, x.w);
            }
        }
    };

    Weights ahead[UNROLL];
    open();
#pragma unroll
    for (int i = 0; i < UNROLL; i++) read(ahead[i], i);
    advance();
    wait_for_previous();
    Inputs inputs[2];
    read_inputs(inputs[0], warp);
    int turn = 0;
    for (int tile_index = blockIdx.x; tile_index < tiles; tile_index += gridDim.x, turn ^= 1) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            for (int i = 0; i < 4; i++) c[tile][i] = 0.0f;
        for (int round = 0; round < rounds; round++) {
#pragma unroll
            for (int i = 0; i < UNROLL; i++) {
                // The next tile begins with the first step again.
                const bool wraps = i + 1 == UNROLL && round + 1 == rounds;
                read_inputs(inputs[(i + 1) % 2], wraps ? warp : (round * UNROLL + i + 1) * WARPS + warp);
                multiply(ahead[i], inputs[i % 2]);
                read(ahead[i], i);
            }
            advance();
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
            *(float4*)sums[turn][warp][tile][lane] = make_float4(c[tile][0], c[tile][1], c[tile][2], c[tile][3]);
        // Not before the first tile's products, which do not wait for it: a warp for each row.
        if (a.squares && tile_index == blockIdx.x && warp < a.rows) {
            float sum = 0.0f;
            for (int i = lane; i < a.square_count; i += 32) sum += a.squares[warp * a.square_count + i];
            for (int distance = 16; distance > 0; distance /= 2)
                sum += __shfl_xor_sync(0xffffffffu, sum, distance);
            if (lane == 0) factors[warp] = 1.0f / sqrtf(sum / float(a.inputs) + a.epsilon);
        }
        // One barrier a tile is enough: the sums of the tile after this one go elsewhere.
        __syncthreads();
        // Value i of lane l: output l / 4 + 8 × (i / 2), row 2 × (l % 4) + i % 2. Threads go along outputs.
        auto total = [&](int tile, int row, int within) {
            const int from = (within % 8) * 4 + row / 2, value = (within / 8) * 2 + row % 2;
            float sum = 0.0f;
#pragma unroll
            for (int other = 0; other < WARPS; other++) sum += sums[turn][other][tile][from][value];
            return a.squares ? sum * factors[row] : sum;
        };
        // 16 threads a row: half of the block does all rows at once.
        const int row = threadIdx.x / 16, within = threadIdx.x % 16;
        const int output = tile_index * 16 + within;
        const bool inside = row < a.rows && output < a.outputs;
        float square = 0.0f;
        if (inside) {
            float value = total(0, row, within);
            const size_t target = size_t(row) * a.output_stride + output;
            if (EPILOGUE == 3) {
                // Both are rounded as they are where they pass through memory.
                const float gate = to_float(to_bf16(value)), up = to_float(to_bf16(total(TILES - 1, row, within)));
                value = gate / (1.0f + __expf(-gate)) * up;
            } else if (a.bias) {
                value += a.bias[output];
            }
            if (EPILOGUE == 0 || EPILOGUE == 3) ((bf16*)a.output)[target] = to_bf16(value);
            if (EPILOGUE == 1) ((float*)a.output)[target] = value;
            if (EPILOGUE == 2) {
                value += ((float*)a.output)[target];
                ((float*)a.output)[target] = value;
                if (a.next_norm) {
                    a.next_input[size_t(row) * a.outputs + output] = to_bf16(value * a.next_norm[output]);
                    square = value * value;
                }
            }
        }
        if (EPILOGUE == 2 && a.next_norm) {
            for (int distance = 8; distance > 0; distance /= 2)
                square += __shfl_xor_sync(0xffffffffu, square, distance);
            if (within == 0 && row < a.rows) a.next_squares[row * tiles + tile_index] = square;
        }
    }
}
