// Products of a matrix with few rows: output[row][n] = sum over k of input[row][k] × weights[n][k]. What counts is
// to read the weights once, at the memory's rate.
//
// A block takes tiles of 16 outputs in turn, of all rows, with mma.m16n8k16: the weights are the A operand, the input
// rows the B operand, 8 of them a row tile. Its warps share K out in steps of 64, and their sums are added in shared
// memory in a fixed order. Within a step a lane holds neighbouring values of K where the instruction's layout wants
// others: a sum may be taken in any order, if both operands keep to the same one. How weights are stored, read and
// multiplied is said in dense.cuh and quantized.cuh.
//
// Each warp copies the weights of its next steps into a ring of its own in shared memory, past the end of a tile into the
// next ones, so that memory never waits for the sums. Weights do not depend on the kernel before, so the first of them are
// read before waiting for it. The ring takes more than half of a multiprocessor's shared memory, so that no two blocks
// are on one at once: where kernels overlap, two blocks of one kernel would else find room on the multiprocessors that are
// free first, and leave others without.
//
// A norm before the product (Zhang and Sennrich 2019) is taken apart: its weights are in the input already, and its
// factor, one number a row, is applied to the sums. The factor comes from sums of squares that the product before left,
// one for each of its tiles. So no kernel is needed between two products.
//
// Macros: WARPS; STAGES of the ring; ROW_TILES, which are 8 rows each; EPILOGUE: 0 bfloat16; 1 float; 2 add to floats,
// and leave them for the next norm; 3 silu(gate) × up in bfloat16, with a second tile of weights, the same rows of `up`,
// `outputs` rows further down in the matrix; BITS where weights are quantized, and more (quantized.cuh).

#include "common.cuh"

#define STEP 64
#define ROWS (8 * ROW_TILES)
#define GATED (EPILOGUE == 3)
// Where rows are many, an input that was read serves two tiles of outputs.
#define OUTPUT_TILES (ROW_TILES >= 4 && !GATED ? 2 : 1)
#define TILES (GATED ? 2 : OUTPUT_TILES)
// Sums of two tiles in turn take one barrier a tile, but twice the memory.
#define TURNS (ROW_TILES <= 2 ? 2 : 1)

struct FewRowsArguments {
    const void* weights;   // [outputs][inputs], for epilogue 3 [2 × outputs][inputs], as dense.cuh or quantized.cuh says
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

__device__ __forceinline__ void multiply_add(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same without anything to add to.
__device__ __forceinline__ void multiply_only(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(0.0f));
}

// A lane's inputs of one step: [row tile][first or second half].
struct Inputs { uint4 part[ROW_TILES][2]; };
// A lane's sums: value i of lane l is of output l / 4 + 8 × (i / 2) and row 2 × (l % 4) + i % 2.
typedef float Sums[TILES][ROW_TILES][4];

// Copies 16 bytes to shared memory, or zeros.
__device__ __forceinline__ void copy_or_zero(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0));
}

#ifdef BITS
#include "quantized.cuh"
#else
#include "dense.cuh"
#endif

extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) few_rows(const FewRowsArguments a) {
    extern __shared__ float4 shared[];  // sums, [TURNS][WARPS][TILES][ROW_TILES][32]; then rings, [WARPS][STAGES]
    __shared__ float factors[ROWS];
    let_next_begin();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int tiles = (a.outputs + 15) / 16;  // of outputs
    const int tile_groups = (tiles + OUTPUT_TILES - 1) / OUTPUT_TILES;
    const int steps = (a.inputs + STEP - 1) / STEP;
    const int rounds = (steps + WARPS - 1) / WARPS;  // of a tile

    float4* const shared_sums = shared;
    const unsigned char* const ring =
        (const unsigned char*)(shared + TURNS * WARPS * TILES * ROW_TILES * 32) + warp * (STAGES * SLOT_BYTES);
    const u32 ring_address = u32(__cvta_generic_to_shared(ring));
    Source source(a, lane);
    // The next step to copy: its tiles, its round there, and its place in the ring.
    int copy_group = blockIdx.x, copy_round = 0, copy_stage = 0;
    auto copy = [&]() {
        const bool inside = copy_group < tile_groups;
        source.copy(ring_address + copy_stage * SLOT_BYTES, a, copy_round * WARPS + warp, inside);
        asm volatile("cp.async.commit_group;");
        copy_stage = copy_stage + 1 == STAGES ? 0 : copy_stage + 1;
        if (++copy_round < rounds) return;
        copy_round = 0;
        copy_group += gridDim.x;
        source.open(a, copy_group);
    };
    auto read_inputs = [&](Inputs& x, int step) {
#pragma unroll
        for (int rows = 0; rows < ROW_TILES; rows++)
#pragma unroll
            for (int part = 0; part < 2; part++) {
                const bool inside = rows * 8 + g < a.rows;
                const bf16* row = a.input + size_t(rows * 8 + g) * a.inputs;
                x.part[rows][part] = source.input(row, step * STEP + part * 32, t, inside ? a.inputs : 0);
            }
    };

    source.open(a, copy_group);
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; stage++) copy();
    wait_for_previous();
    Inputs next_inputs;
    read_inputs(next_inputs, warp);
    int turn = 0, stage = 0;
    for (int group = blockIdx.x; group < tile_groups; group += gridDim.x, turn = (turn + 1) % TURNS) {
        Sums c = {};
#pragma unroll 2
        for (int round = 0; round < rounds; round++) {
            const Inputs inputs = next_inputs;
            // The next tile begins with the first step again.
            read_inputs(next_inputs, round + 1 == rounds ? warp : (round + 1) * WARPS + warp);
            asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
            // Other lanes' copies are here too, and all lanes have read what is copied over next.
            __syncwarp();
            copy();
            Weights weights;
            source.read(weights, ring + stage * SLOT_BYTES);
            stage = stage + 1 == STAGES ? 0 : stage + 1;
            multiply(c, weights, inputs);
        }
        float4* own = shared_sums + (turn * WARPS + warp) * (TILES * ROW_TILES * 32) + lane;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int rows = 0; rows < ROW_TILES; rows++) {
                const float* sum = c[tile][rows];
                own[(tile * ROW_TILES + rows) * 32] = make_float4(sum[0], sum[1], sum[2], sum[3]);
            }
        // Not before the first tile's products, which do not wait for it: a warp for each row.
        if (a.squares && group == blockIdx.x) {
            for (int row = warp; row < a.rows; row += WARPS) {
                float sum = 0.0f;
                for (int i = lane; i < a.square_count; i += 32) sum += a.squares[row * a.square_count + i];
                for (int distance = 16; distance > 0; distance /= 2)
                    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
                if (lane == 0) factors[row] = 1.0f / sqrtf(sum / float(a.inputs) + a.epsilon);
            }
        }
        __syncthreads();
        auto total = [&](int tile, int row, int within) {
            const int from = (within % 8) * 4 + row % 8 / 2, value = (within / 8) * 2 + row % 2;
            const int place = (tile * ROW_TILES + row / 8) * 32 + from;
            float sum = 0.0f;
#pragma unroll
            for (int other = 0; other < WARPS; other++) {
                const int warps_before = turn * WARPS + other;
                sum += ((const float*)(shared_sums + warps_before * (TILES * ROW_TILES * 32) + place))[value];
            }
            return a.squares ? sum * factors[row] : sum;
        };
        // 16 threads a row, so that threads go along outputs. All threads of a warp go round equally often.
        for (int pass = 0; pass < ROWS * OUTPUT_TILES * 16; pass += 32 * WARPS) {
            const int item = (pass + threadIdx.x) / 16, within = threadIdx.x % 16;
            const int row = item % ROWS, tile = item / ROWS;
            const int tile_index = group * OUTPUT_TILES + tile, output = tile_index * 16 + within;
            const bool inside = row < a.rows && tile < OUTPUT_TILES && output < a.outputs;
            float square = 0.0f;
            if (inside) {
                float value = total(tile, row, within);
                const size_t target = size_t(row) * a.output_stride + output;
                if (GATED) {
                    // Both are rounded as they are where they pass through memory.
                    const float gate = to_float(to_bf16(value)), up = to_float(to_bf16(total(TILES - 1, row, within)));
                    value = gate / (1.0f + __expf(-gate)) * up;
                } else if (a.bias) {
                    value += a.bias[output];
                }
                if (EPILOGUE == 0 || GATED) ((bf16*)a.output)[target] = to_bf16(value);
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
                if (within == 0 && row < a.rows && tile < OUTPUT_TILES && tile_index < tiles)
                    a.next_squares[row * tiles + tile_index] = square;
            }
        }
        // With one turn, the next sums go where these were read.
        if (TURNS == 1) __syncthreads();
    }
}
