// Products of quantized weights with tens of rows: output[row][n] = sum over k of input[row][k] × weights[n][k]. Weights
// are read once for each ROWS rows and become bfloat16 in registers; inputs wait in shared memory.
//
// A block takes 128 rows of the matrix and ROWS rows of the input, with mma.m16n8k16: the weights are the A operand, the
// input the B operand. Warps are four along the matrix, two tiles of 16 each, by two along K: of the 128 inputs of a
// stage, one half each. Where there are fewer blocks than the GPU holds, several share K (`splits`): each leaves its sums
// in memory, and the last one adds them up, in their order.
//
// Within 32 inputs a lane holds neighbouring values where the instruction's layout wants others: a sum may be taken in
// any order, if both operands keep to the same one (quantized.cuh).
//
// Macros: ROWS, 64 or 128; STAGES of the ring; EPILOGUE: 0 bfloat16; 1 float; 2 add to floats; 3 silu(gate) × up in
// bfloat16, with a second half of the matrix, `outputs` rows further down; those of quantized.cuh.
// Launch: [row blocks, blocks of the matrix, splits], 256 threads.

#include "common.cuh"
#include "quantized.cuh"

#define WARPS 8
#define WARPS_ALONG 4
#define GATED (EPILOGUE == 3)
#define MATRIX_ROWS 128
#define OUTPUTS (GATED ? MATRIX_ROWS / 2 : MATRIX_ROWS)
#define ROW_TILES (ROWS / 8)
// Inputs of a stage, two steps of quantized.cuh.
#define STAGE_INPUTS 128
#define INPUT_BYTES (ROWS * STAGE_INPUTS * 2)
#define STORED_BYTES (RECORD_BYTES + OUTER_BYTES)
#define STAGE_BYTES (INPUT_BYTES + 2 * WARPS * STORED_BYTES)
// Of a row of sums in shared memory, so that lanes that write at once meet different banks.
#define SUM_STRIDE (MATRIX_ROWS + 4)

struct TiledArguments {
    const void* weights;   // [outputs][inputs], for epilogue 3 [2 × outputs][inputs], as quantized.cuh says
    const bf16* input;     // [rows][inputs]
    void* output;          // [rows][output_stride]
    float* partials;       // [blocks of the matrix][row blocks][splits][ROWS][128]
    u32* arrivals;         // [blocks of the matrix][row blocks], zeros, and zeros afterwards
    int rows;
    int outputs;           // for epilogue 3 a multiple of 16
    int inputs;            // a multiple of 32
    int output_stride;
};

__device__ __forceinline__ void copy_or_zero(u32 to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(inside ? 16 : 0));
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Where 16 bytes of a row of inputs lie, so that lanes that read at once meet different banks.
__device__ __forceinline__ int place_of(int row, int chunk) {
    return row * (STAGE_INPUTS * 2) + ((chunk ^ ((row & 1) << 2 | (row & 2))) << 4);
}

// A lane's 8 inputs of a row that go with its weights of a part.
__device__ __forceinline__ uint4 read_input(const unsigned char* inputs, int row, int part, int t) {
    if (SCALE_BLOCK == 32) return *(const uint4*)(inputs + place_of(row, part * 4 + t));
    const uint2 low = *(const uint2*)(inputs + place_of(row, part * 4 + t / 2) + t % 2 * 8);
    const uint2 high = *(const uint2*)(inputs + place_of(row, part * 4 + 2 + t / 2) + t % 2 * 8);
    return make_uint4(low.x, low.y, high.x, high.y);
}

// a × b + c for two pairs of bfloat16, rounded once.
__device__ __forceinline__ u32 multiply_add_pairs(u32 a, u32 b, u32 c) {
    u32 result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// The A operands of 32 inputs, 16 each: quanta times their scale and more their minimum, both of these rounded.
__device__ __forceinline__ void operands(u32 (&a)[2][4], const LaneWeights& w, int part) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        u32 quanta[4];
        unpack(quanta, w, half, part);
        const float minimum = HAS_MINIMUM ? number(w, half, part, SCALES) : 0.0f;
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            const float scale = scale_of(w, half, part, SCALES == 1 ? 0 : pair / 2);
            const u32 quantum = HAS_MINIMUM ? add_pairs(quanta[pair], 0xc300c300u) : quanta[pair];
            a[pair / 2][pair % 2 * 2 + half] =
                multiply_add_pairs(quantum, pack(scale, scale), HAS_MINIMUM ? pack(minimum, minimum) : 0x80008000u);
        }
    }
}

// Whether this block is the last of those that share outputs.
__device__ __forceinline__ bool arrives_last(u32* arrivals, u32 splits) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicInc(arrivals, splits - 1) == splits - 1;
    __syncthreads();
    __threadfence();
    return last;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS, ROWS > 64 ? 1 : 2) tiled(const TiledArguments a) {
    extern __shared__ uint4 shared[];
    let_next_begin();
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int along = warp % WARPS_ALONG, half_of_stage = warp / WARPS_ALONG;
    const int row_first = blockIdx.x * ROWS, block = blockIdx.y, split = blockIdx.z, splits = gridDim.z;
    const QuantizedMatrix matrix(a.weights, GATED ? 2 * a.outputs : a.outputs, a.inputs);
    const int stages = (a.inputs + STAGE_INPUTS - 1) / STAGE_INPUTS;
    const int stage_first = stages * split / splits, stage_end = stages * (split + 1) / splits;

    unsigned char* const ring = (unsigned char*)shared;
    const u32 ring_address = u32(__cvta_generic_to_shared(ring));
    const int slot = INPUT_BYTES + warp * (2 * STORED_BYTES);

    // Where this lane copies from next: its part of the records, and of the outer scales after them.
    const unsigned char* records[2];
    const unsigned char* outers[2];
    int step = 2 * stage_first + half_of_stage;
    const int step_end = min(2 * stage_end, matrix.steps);
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
        // A tile past the end is computed and dropped.
        const int first = GATED ? block * WARPS_ALONG + along : (block * WARPS_ALONG + along) * 2 + tile;
        const int index = min(first, (a.outputs + 15) / 16 - 1) + (GATED ? tile * (a.outputs / 16) : 0);
        records[tile] = matrix.record(index, step) + lane * 16;
        outers[tile] = matrix.outer(index, 0) + lane * 16;
    }
    auto copy_weights = [&](int place) {
        const bool inside = step < step_end;
        const u32 target = ring_address + place * STAGE_BYTES + slot + lane * 16;
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
#pragma unroll
            for (int first = 0; first < RECORD_BYTES; first += 512)
                if (first + 512 <= RECORD_BYTES || lane < (RECORD_BYTES - first) / 16)
                    copy_or_zero(target + tile * STORED_BYTES + first, records[tile] + (inside ? first : 0), inside);
            if (lane < OUTER_BYTES / 16)
                copy_or_zero(target + tile * STORED_BYTES + RECORD_BYTES,
                             outers[tile] + (inside ? step / STEPS_PER_OUTER * OUTER_BYTES : 0), inside);
            records[tile] += inside ? 2 * RECORD_BYTES : 0;
        }
        step += 2;
    };
    // A thread copies the same part of every 16th row.
    const int copied_row = threadIdx.x / 16, copied_chunk = threadIdx.x % 16;
    int copied_k = stage_first * STAGE_INPUTS + copied_chunk * 8;
    const int copied_k_end = min(stage_end * STAGE_INPUTS, a.inputs);
    const bf16* copied = a.input + size_t(row_first + copied_row) * a.inputs + copied_k;
    const size_t rows_apart = size_t(32 * WARPS / 16) * a.inputs;
    const int copied_rows = a.rows - row_first - copied_row;
    auto copy_inputs = [&](int place) {
        const u32 target = ring_address + place * STAGE_BYTES + place_of(copied_row, copied_chunk);
        const bool inside = copied_k < copied_k_end;
        const bf16* from = copied;
#pragma unroll
        for (int first = 0; first < ROWS; first += 32 * WARPS / 16) {
            const bool present = inside && first < copied_rows;
            copy_or_zero(target + first * (STAGE_INPUTS * 2), present ? from : a.input, present);
            from += rows_apart;
        }
        copied += STAGE_INPUTS;
        copied_k += STAGE_INPUTS;
    };

    // Weights do not depend on the kernel before.
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) copy_weights(stage);
    wait_for_previous();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; stage++) {
        copy_inputs(stage);
        asm volatile("cp.async.commit_group;");
    }

    float c[2][ROW_TILES][4] = {};
    int place = 0;
#pragma unroll 1
    for (int stage = stage_first; stage < stage_end; stage++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        // Everybody's copies are here, and everybody has read what is copied over next.
        __syncthreads();
        const int next = place == 0 ? STAGES - 1 : place - 1;
        copy_weights(next);
        copy_inputs(next);
        asm volatile("cp.async.commit_group;");

        const unsigned char* inputs = ring + place * STAGE_BYTES;
        LaneWeights w[2];
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            const unsigned char* record = inputs + slot + tile * STORED_BYTES;
            read_lane(w[tile], record, record + RECORD_BYTES, lane);
        }
#pragma unroll
        for (int part = 0; part < 2; part++) {
            u32 weights[2][2][4];
#pragma unroll
            for (int tile = 0; tile < 2; tile++) operands(weights[tile], w[tile], part);
#pragma unroll
            for (int rows = 0; rows < ROW_TILES; rows++) {
                const uint4 x = read_input(inputs, rows * 8 + g, half_of_stage * 2 + part, t);
#pragma unroll
                for (int tile = 0; tile < 2; tile++) {
                    multiply_add(c[tile][rows], weights[tile][0], x.x, x.y);
                    multiply_add(c[tile][rows], weights[tile][1], x.z, x.w);
                }
            }
        }
        place = place + 1 == STAGES ? 0 : place + 1;
    }

    // Both halves of the stages are added up in shared memory, [ROWS][SUM_STRIDE].
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    float* const sums = (float*)shared;
    auto put_sums = [&](bool adds) {
#pragma unroll
        for (int tile = 0; tile < 2; tile++)
#pragma unroll
            for (int rows = 0; rows < ROW_TILES; rows++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int row = rows * 8 + 2 * t + i % 2, column = along * 32 + tile * 16 + g + i / 2 * 8;
                    float& sum = sums[row * SUM_STRIDE + column];
                    sum = adds ? sum + c[tile][rows][i] : c[tile][rows][i];
                }
    };
    if (half_of_stage == 1) put_sums(false);
    __syncthreads();
    if (half_of_stage == 0) put_sums(true);
    __syncthreads();

    const int rows = min(ROWS, a.rows - row_first);
    if (splits > 1) {
        const int shared_outputs = block * gridDim.x + blockIdx.x;
        float* const partials = a.partials + size_t(shared_outputs) * splits * (ROWS * MATRIX_ROWS);
        float* const own = partials + split * (ROWS * MATRIX_ROWS);
        // Each thread has the same four columns of every 8th row.
        const int column = threadIdx.x % (MATRIX_ROWS / 4) * 4, row_of_thread = threadIdx.x / (MATRIX_ROWS / 4);
        for (int row = row_of_thread; row < rows; row += 8)
            __stcg((float4*)(own + row * MATRIX_ROWS + column), *(const float4*)(sums + row * SUM_STRIDE + column));
        if (!arrives_last(a.arrivals + shared_outputs, splits)) return;
        float4 total[ROWS / 8] = {};
        const float* from = partials + row_of_thread * MATRIX_ROWS + column;
        for (int part = 0; part < splits; part++, from += ROWS * MATRIX_ROWS) {
            float4 others[ROWS / 8];
#pragma unroll
            for (int i = 0; i < ROWS / 8; i++) others[i] = __ldcg((const float4*)(from + i * 8 * MATRIX_ROWS));
#pragma unroll
            for (int i = 0; i < ROWS / 8; i++) {
                total[i].x += others[i].x;
                total[i].y += others[i].y;
                total[i].z += others[i].z;
                total[i].w += others[i].w;
            }
        }
#pragma unroll
        for (int i = 0; i < ROWS / 8; i++)
            *(float4*)(sums + (row_of_thread + i * 8) * SUM_STRIDE + column) = total[i];
        __syncthreads();
    }
    // Each thread has the same output of some rows.
    const int within = threadIdx.x % OUTPUTS, output = block * OUTPUTS + within;
    const int column = GATED ? within / 16 * 32 + within % 16 : within;
    if (output >= a.outputs) return;
    const size_t first = size_t(row_first) * a.output_stride + output;
#pragma unroll 8
    for (int row = threadIdx.x / OUTPUTS; row < rows; row += 32 * WARPS / OUTPUTS) {
        const size_t target = first + size_t(row) * a.output_stride;
        const float value = sums[row * SUM_STRIDE + column];
        if (GATED) {
            // Both are rounded as they are where they pass through memory.
            const float gate = to_float(to_bf16(value)), up = to_float(to_bf16(sums[row * SUM_STRIDE + column + 16]));
            ((bf16*)a.output)[target] = to_bf16(gate / (1.0f + __expf(-gate)) * up);
        }
        if (EPILOGUE == 0) ((bf16*)a.output)[target] = to_bf16(value);
        if (EPILOGUE == 1) ((float*)a.output)[target] = value;
        // As an instruction of its own, for nobody waits for what was there before.
        if (EPILOGUE == 2) atomicAdd((float*)a.output + target, value);
    }
}
