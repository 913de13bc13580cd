// Attention of a few rows of each sequence over its paged keys and values: one pass with a running softmax, split over
// the keys so that all multiprocessors are busy whatever the batch, and put together by whoever finishes last.
//
// A task is one span of positions of one sequence for a tile of its queries; a unit is a task for one key-value head:
// unit u is task u / kv_heads, head u % kv_heads. Block b takes the units b, b + grid, b + 2 grid, ... A query is a head
// of a row: the query heads that share a key-value head are taken together, query q of a sequence being head q % GROUP of
// its row q / GROUP. The tile's queries are the narrow side (n = 8) of the tensor core's product and the positions of a
// page its wide side (m = 16), so that one row with few heads wastes little:
//   scores^T [16 positions x 8 queries] = keys [16 x HEAD_DIM] * queries^T
//   output^T [HEAD_DIM x 8 queries]    += values^T [HEAD_DIM x 16] * weights^T
// Each warp walks every WARPS-th page of the span with a ring of pages of its own, which runs ahead into the next units;
// nothing but the end of a unit joins the warps. Spans are cut by the sequence's own length alone and put together in
// order, so the result of a row does not depend on the other sequences of the step, to the bit.
//
// Macros: HEAD_DIM (a multiple of 16), GROUP (query heads a key-value head). Optional: WARPS (4), STAGES (2: pages of a
// warp's ring), QUERY_TILE (8 or 16: queries of a task).
//
// Arguments of attention_decode:
//   queries         bf16, head h of row r at queries + r * query_stride + h * HEAD_DIM
//   keys, values    bf16 [blocks][kv_heads][16][HEAD_DIM], this step's rows included
//   block_tables    int32, the tables of all sequences
//   tasks           Task[], see below
//   task_count      one int32
//   partials        f32 [slots][kv_heads][QUERY_TILE * (HEAD_DIM + 2)]: results of spans, their maxima and sums
//   arrivals        u32 [counters][kv_heads]: zero once; every launch leaves zeros
//   output          bf16, head h of row r at output + r * output_stride + h * HEAD_DIM
//   window          positions seen, the row's own included; 0: all
//   scale, softcap  score = scale * dot, then softcap * tanh(score / softcap) if softcap > 0
// Launch: any grid (two blocks a multiprocessor), WARPS * 32 threads, dynamic shared memory
//   WARPS * (STAGES * 2 * 16 * (2 * HEAD_DIM + 16) + QUERY_TILE * (4 * HEAD_DIM + 24)) + 16 bytes.
// Programmatic dependent launch: pages of positions before the step's own are read before the previous kernel ends.
//
// Papers: Milakov and Gimelshein 2018 (running softmax), Dao et al. 2022 and 2023 (FlashAttention, split over keys),
// Kwon et al. 2023 (pages), Ainslie et al. 2023 (grouped heads).

#include <cuda_bf16.h>

#ifndef WARPS
#define WARPS 4
#endif
#ifndef STAGES
#define STAGES 2
#endif
#ifndef QUERY_TILE
#define QUERY_TILE (GROUP <= 8 ? 8 : 16)
#endif

typedef __nv_bfloat16 bf16;
typedef unsigned int u32;

// What the planner writes: three groups of four numbers, each read at once.
struct Task {
    int row_first;       // the sequence's first row in the step
    int position_first;  // the position of that row
    int query_first;     // first query of the tile
    int query_count;
    int table_first;     // where the block of the span's first page stands in block_tables
    int page_first;      // number of that page in the sequence
    int page_count;
    int position_end;    // one past the sequence's last position
    int span;            // number of the span among those of the tile
    int span_count;
    int slot_first;      // where the results of the tile's spans begin
    int counter;         // the tile's counter of spans that are done
};

constexpr int BLOCK_TOKENS = 16;
constexpr int THREADS = WARPS * 32;
constexpr int TILES = QUERY_TILE / 8;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int CHUNKS = HEAD_DIM / 8;
// A row is 16 bytes longer than its values, so that eight rows at one column lie in different banks.
constexpr int ROW_BYTES = 2 * HEAD_DIM + 16;
constexpr int PAGE_BYTES = BLOCK_TOKENS * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * PAGE_BYTES;
constexpr int MERGE_ROW = HEAD_DIM + 4;
constexpr int PARTIAL = QUERY_TILE * (HEAD_DIM + 2);
constexpr float LOG2_E = 1.4426950408889634f;
// The score of a position that is not seen: minus infinity.
#define NOTHING __int_as_float(0xff800000)

__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float tanh_of(float x) {
    return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(x * (2.0f * LOG2_E)));
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

// 16 bytes to shared memory, or 16 zeros.
__device__ __forceinline__ void copy_chunk(u32 to, const void* from, bool present) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                 :: "r"(to), "l"(from), "r"(present ? 16 : 0) : "memory");
}

__device__ __forceinline__ void load_matrices(u32 (&a)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(from) : "memory");
}

__device__ __forceinline__ void load_transposed(u32 (&a)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(from) : "memory");
}

__device__ __forceinline__ u32 transpose(u32 matrix) {
    u32 transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(matrix));
    return transposed;
}

__device__ __forceinline__ void multiply(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ Task read_task(const Task* tasks, int index) {
    const int4* words = reinterpret_cast<const int4*>(tasks + index);
    int4 rows = __ldg(words), pages = __ldg(words + 1), place = __ldg(words + 2);
    return Task{rows.x, rows.y, rows.z, rows.w, pages.x, pages.y, pages.z, pages.w, place.x, place.y, place.z, place.w};
}

// Walks this warp's pages of all units of the block, ahead of the computation.
struct Loader {
    const Task* tasks;
    const int* block_tables;
    const char* keys;
    const char* values;
    int kv_heads;
    int unit;
    int units;
    int index;         // of the warp's next page among its pages of the unit
    int pages;         // the warp's pages of the unit
    int blocks;        // each lane holds the block of one of them
    int page_first;    // the page with index 0
    int position_first;
    int position_end;

    __device__ void open() {
        index = 0;
        pages = 0;
        if (unit >= units) return;
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const Task task = read_task(tasks, unit / kv_heads);
        pages = (task.page_count - warp + WARPS - 1) / WARPS;
        page_first = task.page_first + warp;
        position_first = task.position_first;
        position_end = task.position_end;
        blocks = lane < pages ? __ldg(block_tables + task.table_first + warp + lane * WARPS) : 0;
    }

    // Starts the copy of the next page, if there is one.
    __device__ void load(u32 to) {
        const int lane = threadIdx.x % 32;
        while (unit < units && index >= pages) {
            unit += gridDim.x;
            open();
        }
        if (unit < units) {
            const int start = (page_first + index * WARPS) * BLOCK_TOKENS;
            if (start + BLOCK_TOKENS > position_first) wait_for_previous_kernel();
            const long long block = __shfl_sync(~0u, blocks, index);
            const long long offset = (block * kv_heads + unit % kv_heads) * (BLOCK_TOKENS * HEAD_DIM * 2);
            const int rows = position_end - start;
#pragma unroll
            for (int part = 0; part < BLOCK_TOKENS * CHUNKS / 32; ++part) {
                const int chunk = part * 32 + lane, row = chunk / CHUNKS, column = chunk % CHUNKS;
                const u32 place = to + row * ROW_BYTES + column * 16;
                copy_chunk(place, keys + offset + chunk * 16, row < rows);
                copy_chunk(place + PAGE_BYTES, values + offset + chunk * 16, row < rows);
            }
            index += 1;
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
};

// A tile's result so far. Column t of a lane stands for query 8 * tile + lane % 4 * 2 + t.
struct State {
    float output[TILES][STEPS][4];
    float largest[TILES][2];
    float sum[TILES][2];  // over the positions of this lane only
};

// Scores of one page, then its values into the state.
__device__ __forceinline__ void attend(State& state, const u32 (&queries)[TILES][STEPS][2], u32 page, int start,
                                       bool masked, const int (&positions)[TILES][2], int window, float scale,
                                       float softcap) {
    const int lane = threadIdx.x % 32;
    u32 matrix[4];
    float even[TILES][4] = {}, odd[TILES][4] = {};
    const u32 key = page + (lane % 16) * ROW_BYTES + lane / 16 * 16;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        load_matrices(matrix, key + step * 32);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            float(&scores)[4] = step % 2 ? odd[tile] : even[tile];
            multiply(scores, matrix, queries[tile][step][0], queries[tile][step][1]);
        }
    }
    const float factor = softcap > 0.0f ? LOG2_E : scale * LOG2_E;
    u32 weights[TILES][2];
    bool grows = false;
    float shrink[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        float scores[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[i] = even[tile][i] + odd[tile][i];
        if (softcap > 0.0f) {
#pragma unroll
            for (int i = 0; i < 4; ++i) scores[i] = softcap * tanh_of(scores[i] * scale / softcap);
        }
        if (masked) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int position = start + lane / 4 + i / 2 * 8, own = positions[tile][i % 2];
                const bool seen = position <= own && (window == 0 || position > own - window);
                if (!seen) scores[i] = NOTHING;
            }
        }
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            float largest = fmaxf(scores[t], scores[t + 2]);
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 4));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 8));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 16));
            largest = fmaxf(state.largest[tile][t], largest * factor);
            grows = grows || largest > state.largest[tile][t];
            // While nothing is seen, any finite number keeps the weights at zero.
            const float base = largest == NOTHING ? 0.0f : largest;
            shrink[tile][t] = exp2_fast(state.largest[tile][t] - base);
            state.largest[tile][t] = largest;
            scores[t] = exp2_fast(fmaf(scores[t], factor, -base));
            scores[t + 2] = exp2_fast(fmaf(scores[t + 2], factor, -base));
            state.sum[tile][t] = fmaf(state.sum[tile][t], shrink[tile][t], scores[t] + scores[t + 2]);
        }
        weights[tile][0] = transpose(pack(scores[0], scores[1]));
        weights[tile][1] = transpose(pack(scores[2], scores[3]));
    }
    if (__any_sync(~0u, grows)) {
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
#pragma unroll
                for (int i = 0; i < 4; ++i) state.output[tile][step][i] *= shrink[tile][i % 2];
    }
    const u32 value = page + PAGE_BYTES + (lane % 8 + lane / 16 * 8) * ROW_BYTES + lane / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        load_transposed(matrix, value + step * 32);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
            multiply(state.output[tile][step], matrix, weights[tile][0], weights[tile][1]);
    }
}

__device__ __forceinline__ void store4(bf16* to, float4 values, float factor) {
    *reinterpret_cast<uint2*>(to) =
        make_uint2(pack(values.x * factor, values.y * factor), pack(values.z * factor, values.w * factor));
}

__device__ __forceinline__ void add(float4& sum, float4 values, float factor) {
    sum.x = fmaf(values.x, factor, sum.x);
    sum.y = fmaf(values.y, factor, sum.y);
    sum.z = fmaf(values.z, factor, sum.z);
    sum.w = fmaf(values.w, factor, sum.w);
}

// Puts the results of a tile's spans together, in order.
__device__ void combine(const float* partials, int span_count, int stride, int query_count, float2* totals,
                        const Task& task, int head, bf16* output, int output_stride) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int query = warp; query < query_count; query += WARPS) {
        const float* stats = partials + QUERY_TILE * HEAD_DIM + 2 * query;
        float largest = NOTHING, sum = 0.0f;
        for (int span = lane; span < span_count; span += 32)
            largest = fmaxf(largest, __ldcg(stats + (long long)span * stride));
        for (int mask = 16; mask > 0; mask /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, mask));
        for (int span = lane; span < span_count; span += 32) {
            const float2 stat = __ldcg(reinterpret_cast<const float2*>(stats + (long long)span * stride));
            sum += stat.y * exp2_fast(stat.x - largest);
        }
        for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
        if (lane == 0) totals[query] = make_float2(largest, 1.0f / sum);
    }
    __syncthreads();
    for (int item = threadIdx.x; item < query_count * (HEAD_DIM / 4); item += THREADS) {
        const int query = item / (HEAD_DIM / 4), column = item % (HEAD_DIM / 4) * 4;
        const float2 total = totals[query];
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 16
        for (int span = 0; span < span_count; ++span) {
            const float* partial = partials + (long long)span * stride;
            const float largest = __ldcg(partial + QUERY_TILE * HEAD_DIM + 2 * query);
            const float4 values = __ldcg(reinterpret_cast<const float4*>(partial + query * HEAD_DIM + column));
            add(sum, values, exp2_fast(largest - total.x));
        }
        const long long row = task.row_first + (task.query_first + query) / GROUP;
        const int query_head = head * GROUP + (task.query_first + query) % GROUP;
        store4(output + row * output_stride + query_head * HEAD_DIM + column, sum, total.y);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
attention_decode(const bf16* __restrict__ queries, int query_stride, const bf16* __restrict__ keys,
                 const bf16* __restrict__ values, const int* __restrict__ block_tables,
                 const Task* __restrict__ tasks, const int* __restrict__ task_count, float* partials, u32* arrivals,
                 bf16* __restrict__ output, int output_stride, int kv_heads, int window, float scale, float softcap) {
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* merged = reinterpret_cast<float*>(shared + WARPS * STAGES * STAGE_BYTES);
    float2* stats = reinterpret_cast<float2*>(merged + WARPS * QUERY_TILE * MERGE_ROW);
    int* is_last = reinterpret_cast<int*>(stats + WARPS * QUERY_TILE);
    const u32 ring = (u32)__cvta_generic_to_shared(shared) + warp * STAGES * STAGE_BYTES;

    let_next_kernel_start();
    const int units = __ldg(task_count) * kv_heads;
    Loader loader{tasks, block_tables, reinterpret_cast<const char*>(keys), reinterpret_cast<const char*>(values),
                  kv_heads, (int)blockIdx.x, units, 0, 0, 0, 0, 0, 0};
    loader.open();
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) loader.load(ring + stage * STAGE_BYTES);
    wait_for_previous_kernel();

    int stage = 0;
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
        const int head = unit % kv_heads;
        const Task task = read_task(tasks, unit / kv_heads);

        u32 fragments[TILES][STEPS][2];
        int positions[TILES][2];
        State state;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const int column = tile * 8 + lane / 4, query = task.query_first + column;
            const bf16* from = queries + (long long)(task.row_first + query / GROUP) * query_stride
                + (head * GROUP + query % GROUP) * HEAD_DIM + lane % 4 * 2;
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    fragments[tile][step][half] = column < task.query_count
                        ? *reinterpret_cast<const u32*>(from + step * 16 + half * 8) : 0;
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                positions[tile][t] = task.position_first + (task.query_first + tile * 8 + lane % 4 * 2 + t) / GROUP;
                state.largest[tile][t] = NOTHING;
                state.sum[tile][t] = 0.0f;
            }
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
#pragma unroll
                for (int i = 0; i < 4; ++i) state.output[tile][step][i] = 0.0f;
        }
        const int lowest = task.position_first + task.query_first / GROUP;
        const int highest = task.position_first + (task.query_first + task.query_count - 1) / GROUP;

        for (int page = warp; page < task.page_count; page += WARPS) {
            loader.load(ring + (stage == 0 ? STAGES - 1 : stage - 1) * STAGE_BYTES);
            asm volatile("cp.async.wait_group %0;" :: "n"(STAGES - 1) : "memory");
            __syncwarp();
            const int start = (task.page_first + page) * BLOCK_TOKENS;
            const bool masked = start + BLOCK_TOKENS - 1 > lowest || (window > 0 && start <= highest - window);
            attend(state, fragments, ring + stage * STAGE_BYTES, start, masked, positions, window, scale, softcap);
            __syncwarp();
            stage = stage == STAGES - 1 ? 0 : stage + 1;
        }

        // The warps' results side by side, once nobody reads those of the unit before.
        __syncthreads();
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                const int column = tile * 8 + lane % 4 * 2 + t;
                float* to = merged + (warp * QUERY_TILE + column) * MERGE_ROW + lane / 4;
#pragma unroll
                for (int step = 0; step < STEPS; ++step) {
                    to[step * 16] = state.output[tile][step][t];
                    to[step * 16 + 8] = state.output[tile][step][t + 2];
                }
                float sum = state.sum[tile][t];
                sum += __shfl_xor_sync(~0u, sum, 4);
                sum += __shfl_xor_sync(~0u, sum, 8);
                sum += __shfl_xor_sync(~0u, sum, 16);
                if (lane < 4) stats[warp * QUERY_TILE + column] = make_float2(state.largest[tile][t], sum);
            }
        __syncthreads();
        const bool whole = task.span_count == 1;
        const long long slot = (long long)task.slot_first * kv_heads + head;
        const int stride = kv_heads * PARTIAL;
        float* partial = partials + slot * PARTIAL + (long long)task.span * stride;
        for (int item = threadIdx.x; item < task.query_count * (HEAD_DIM / 4); item += THREADS) {
            const int query = item / (HEAD_DIM / 4), column = item % (HEAD_DIM / 4) * 4;
            float largest = NOTHING;
#pragma unroll
            for (int other = 0; other < WARPS; ++other)
                largest = fmaxf(largest, stats[other * QUERY_TILE + query].x);
            const float base = largest == NOTHING ? 0.0f : largest;
            float total = 0.0f;
            float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int other = 0; other < WARPS; ++other) {
                const float2 stat = stats[other * QUERY_TILE + query];
                const float factor = exp2_fast(stat.x - base);
                total = fmaf(stat.y, factor, total);
                add(sum, *reinterpret_cast<const float4*>(merged + (other * QUERY_TILE + query) * MERGE_ROW + column),
                    factor);
            }
            if (whole) {
                const long long row = task.row_first + (task.query_first + query) / GROUP;
                const int query_head = head * GROUP + (task.query_first + query) % GROUP;
                store4(output + row * output_stride + query_head * HEAD_DIM + column, sum, 1.0f / total);
            } else {
                __stcg(reinterpret_cast<float4*>(partial + query * HEAD_DIM + column), sum);
                if (column == 0)
                    __stcg(reinterpret_cast<float2*>(partial + QUERY_TILE * HEAD_DIM + 2 * query),
                           make_float2(largest, total));
            }
        }
        if (!whole) {
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) {
                u32* counter = arrivals + (long long)task.counter * kv_heads + head;
                *is_last = atomicInc(counter, task.span_count - 1) == task.span_count - 1;
            }
            __syncthreads();
            if (*is_last) {
                __threadfence();
                combine(partials + slot * PARTIAL, task.span_count, stride, task.query_count, stats, task, head, output,
                        output_stride);
            }
        }
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
}
