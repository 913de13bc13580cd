// Attention of a few rows of each sequence over its paged keys and values: one pass with a running softmax, split over
// the keys so that all multiprocessors are busy whatever the batch, and put together by whoever finishes last.
//
// A task is one span of positions of one sequence for a tile of its queries; a unit is a task for one key-value head:
// unit u is task u / kv_heads, head u % kv_heads. Block b takes the units b, b + grid, b + 2 grid, ... A query is a
// head of a row: the query heads that share a key-value head are taken together, query q of a sequence being head q %
// GROUP of its row q / GROUP. The tile's queries are the narrow side (n = 8) of the tensor core's product and the
// positions of a page its wide side (m = 16), so that one row with few heads wastes little:
//   scores^T [16 positions x 8 queries] = keys [16 x HEAD_DIM] * queries^T
//   output^T [HEAD_DIM x 8 queries]    += values^T [HEAD_DIM x 16] * weights^T
// Each warp walks every WARPS-th page of a unit with a ring of pages of its own, which runs ahead into the next unit.
// No barrier joins the warps: each leaves its result in shared memory, and the last one puts them together, so that a
// warp can be almost a unit ahead of another and copies never pause. The spans of a tile are put together in groups
// of 16, groups of groups after them, each by the block that arrives last. Who computes and who puts together changes
// nothing: every sum has a fixed order, so the result of a row depends on its own sequence and on where its spans
// were cut.
//
// Macros: HEAD_DIM (a multiple of 16), GROUP (query heads a key-value head). Optional: WARPS (8, or 4 for heads wider
// than 128), STAGES (2: pages of a warp's ring), QUERY_TILE (queries of a task: 16 for groups of more than 8 and
// heads of at most 128, 8 for other groups of more than 4, else 4).
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
// Launch: any grid (as many blocks as fit at once), WARPS * 32 threads, dynamic shared memory
//   WARPS * (STAGES * 2 * 16 * (2 * HEAD_DIM + 16) + QUERY_TILE * (4 * HEAD_DIM + 24)) + 32 bytes.
// Programmatic dependent launch: pages of positions before the step's own are read before the previous kernel ends.
//
// Papers: Milakov and Gimelshein 2018 (running softmax), Dao et al. 2022 and 2023 (FlashAttention, split over keys),
// Kwon et al. 2023 (pages), Ainslie et al. 2023 (grouped heads).

#include "attention.cuh"

#ifndef WARPS
#define WARPS (HEAD_DIM > 128 ? 4 : 8)
#endif
#ifndef STAGES
#define STAGES 2
#endif
#ifndef QUERY_TILE
#define QUERY_TILE (GROUP > 8 && HEAD_DIM <= 128 ? 16 : GROUP > 4 ? 8 : 4)
#endif

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
    int slot_first;      // where the results of the tile's spans begin, those of its groups of spans after them
    int counter_first;   // where the counters of its groups begin
};

constexpr int THREADS = WARPS * 32;
constexpr int TILES = (QUERY_TILE + 7) / 8;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int CHUNKS = HEAD_DIM / 8;
// A row is 16 bytes longer than its values, so that eight rows at one column lie in different banks.
constexpr int ROW_BYTES = 2 * HEAD_DIM + 16;
constexpr int PAGE_BYTES = BLOCK_TOKENS * ROW_BYTES;
constexpr int STAGE_BYTES = 2 * PAGE_BYTES;
constexpr int MERGE_ROW = HEAD_DIM + 4;
constexpr int FAN_IN = 16;  // spans, or groups of them, that are put together at once
constexpr int LANE_PARTS = (HEAD_DIM + 127) / 128;  // of a lane in a query's result, each of four values
constexpr int PARTIAL = QUERY_TILE * (HEAD_DIM + 2);

__device__ __forceinline__ u32 transpose(u32 matrix) {
    u32 transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(matrix));
    return transposed;
}

// What the host wrote, asked for well before it is needed: volatile, so that the compiler leaves it there.
__device__ __forceinline__ int4 read_early(const int4* from) {
    int4 read;
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(read.x), "=r"(read.y), "=r"(read.z), "=r"(read.w) : "l"(from));
    return read;
}

__device__ __forceinline__ int read_early(const int* from, bool present) {
    int read;
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nmov.b32 %0, 0;\n@p ld.global.nc.b32 %0, [%1];\n}"
                 : "=r"(read) : "l"(from), "r"((int)present));
    return read;
}

// Two values of a query, or zeros; the kernel before wrote them.
__device__ __forceinline__ u32 read_early(const bf16* from, bool present) {
    u32 read;
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\nmov.b32 %0, 0;\n@p ld.global.b32 %0, [%1];\n}"
                 : "=r"(read) : "l"(from), "r"((int)present) : "memory");
    return read;
}

// A task spread over the lanes of a warp, and together again.
__device__ __forceinline__ int read_words(const Task* tasks, int index, bool present) {
    const int lane = threadIdx.x % 32;
    return read_early(reinterpret_cast<const int*>(tasks + index) + lane, present && lane < sizeof(Task) / sizeof(int));
}

__device__ __forceinline__ Task task_of(int words) {
    const auto word = [&](int lane) { return __shfl_sync(~0u, words, lane); };
    return Task{word(0), word(1), word(2), word(3), word(4), word(5),
                word(6), word(7), word(8), word(9), word(10), word(11)};
}

__device__ __forceinline__ Task read_task(const Task* tasks, int index) {
    const int4* words = reinterpret_cast<const int4*>(tasks + index);
    const int4 rows = read_early(words), pages = read_early(words + 1), place = read_early(words + 2);
    return Task{rows.x, rows.y, rows.z, rows.w, pages.x, pages.y, pages.z, pages.w, place.x, place.y, place.z, place.w};
}

// Barriers in shared memory order what the warps of a block leave each other, at less cost than a fence, which would
// also wait for copies from global memory.
__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" :: "r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" :: "r"(barrier), "r"(parity) : "memory");
}

// A unit and what one warp does of it: the pages place, place + WARPS, ...
struct Unit {
    Task task;
    int head;
    int rotation;  // the warp with place 0; it moves on so that warps have the same number of pages in the long run
    int place;
    int pages;
    int blocks;    // each lane holds the block of one of 32 pages
};

// The blocks of a unit's next pages for a warp, from one of them on.
__device__ __forceinline__ int blocks_from(const Unit& unit, int index, const int* block_tables) {
    index += threadIdx.x % 32;
    return read_early(block_tables + unit.task.table_first + unit.place + index * WARPS, index < unit.pages);
}

__device__ __forceinline__ Unit open(const Task& task, int head, int rotation, const int* block_tables) {
    Unit unit;
    const int warp = threadIdx.x / 32;
    unit.task = task;
    unit.head = head;
    unit.rotation = rotation;
    unit.place = (warp + WARPS - rotation) % WARPS;
    unit.pages = (task.page_count - unit.place + WARPS - 1) / WARPS;
    unit.blocks = blocks_from(unit, 0, block_tables);
    return unit;
}

// Starts the copy of a page.
__device__ __forceinline__ void load_page(u32 to, Unit& unit, int index, const char* keys, const char* values,
                                          const int* block_tables, int kv_heads, bool& has_waited) {
    const int lane = threadIdx.x % 32;
    const int start = (unit.task.page_first + unit.place + index * WARPS) * BLOCK_TOKENS;
    if (!has_waited && start + BLOCK_TOKENS > unit.task.position_first) {
        wait_for_previous_kernel();
        has_waited = true;
    }
    if (index > 0 && index % 32 == 0) unit.blocks = blocks_from(unit, index, block_tables);
    const long long block = __shfl_sync(~0u, unit.blocks, index % 32);
    const long long offset = (block * kv_heads + unit.head) * (BLOCK_TOKENS * HEAD_DIM * 2) + lane * 16;
    const int rows = unit.task.position_end - start;
#pragma unroll
    for (int part = 0; part < BLOCK_TOKENS * CHUNKS / 32; ++part) {
        // Where whole rows fit into a part, all but the first part's place is known to the compiler.
        const bool even = 32 % CHUNKS == 0;
        const int chunk = even ? lane : part * 32 + lane, first = even ? part * (32 / CHUNKS) : 0;
        const int row = chunk / CHUNKS, column = chunk % CHUNKS;
        const u32 place = to + row * ROW_BYTES + column * 16 + first * ROW_BYTES;
        const bool present = row < rows - first;
        copy_chunk(place, keys + offset + part * 512, present);
        copy_chunk(place + PAGE_BYTES, values + offset + part * 512, present);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

typedef u32 Fragments[TILES][STEPS][2];

__device__ __forceinline__ void load_queries(Fragments& fragments, const Unit& unit, const bf16* queries,
                                             int query_stride) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        const int column = tile * 8 + lane / 4, query = unit.task.query_first + column;
        const bool present = column < unit.task.query_count;
        const bf16* from = queries + (long long)(unit.task.row_first + query / GROUP) * query_stride
            + (unit.head * GROUP + query % GROUP) * HEAD_DIM + lane % 4 * 2;
#pragma unroll
        for (int step = 0; step < STEPS; ++step)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                fragments[tile][step][half] = read_early(from + step * 16 + half * 8, present);
    }
}

// A tile's result so far. Column t of a lane stands for query 8 * tile + lane % 4 * 2 + t.
struct State {
    float output[TILES][STEPS][4];
    float largest[TILES][2];
    float sum[TILES][2];  // over the positions of this lane only
};

// Scores of one page, then its values into the state.
__device__ __forceinline__ void attend(State& state, const Fragments& queries, u32 page, int start,
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
    const float factor = softcap > 0.0f ? LOG2_E : scale * LOG2_E, cap_factor = __fdividef(scale, softcap);
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
            for (int i = 0; i < 4; ++i) scores[i] = softcap * tanh_of(scores[i] * cap_factor);
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

// Results of one query, one lane's part, to be put together from several.
struct Sum {
    float4 values[LANE_PARTS];
    float total;
};

// Adds the results numbered 0 to count - 1 in order. Their values, maxima and sums are asked for with the number.
template <int COUNT_MAX, typename Values, typename Stats>
__device__ __forceinline__ Sum put_together(int count, float& largest, Values values_of, Stats stats_of) {
    float2 stats[COUNT_MAX];
    float4 values[COUNT_MAX][LANE_PARTS];
#pragma unroll
    for (int i = 0; i < COUNT_MAX; ++i) {
        stats[i] = i < count ? stats_of(i) : make_float2(NOTHING, 0.0f);
#pragma unroll
        for (int part = 0; part < LANE_PARTS; ++part) {
            const int column = threadIdx.x % 32 * 4 + part * 128;
            const bool present = i < count && column < HEAD_DIM;
            values[i][part] = present ? values_of(i, column) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
    largest = NOTHING;
#pragma unroll
    for (int i = 0; i < COUNT_MAX; ++i) largest = fmaxf(largest, stats[i].x);
    const float base = largest == NOTHING ? 0.0f : largest;
    Sum sum = {};
#pragma unroll
    for (int i = 0; i < COUNT_MAX; ++i) {
        const float factor = exp2_fast(stats[i].x - base);
        sum.total = fmaf(stats[i].y, factor, sum.total);
#pragma unroll
        for (int part = 0; part < LANE_PARTS; ++part) add(sum.values[part], values[i][part], factor);
    }
    return sum;
}

__device__ __forceinline__ void write_output(const Sum& sum, const Task& task, int head, int query, bf16* output,
                                             int output_stride) {
    const float inverse = __fdividef(1.0f, sum.total);
    const int number = task.query_first + query;
    bf16* to = output + (long long)(task.row_first + number / GROUP) * output_stride
        + (head * GROUP + number % GROUP) * HEAD_DIM;
#pragma unroll
    for (int part = 0; part < LANE_PARTS; ++part) {
        const int column = threadIdx.x % 32 * 4 + part * 128;
        if (column < HEAD_DIM) store4(to + column, sum.values[part], inverse);
    }
}

__device__ __forceinline__ void write_partial(const Sum& sum, float largest, int query, float* partial) {
#pragma unroll
    for (int part = 0; part < LANE_PARTS; ++part) {
        const int column = threadIdx.x % 32 * 4 + part * 128;
        if (column < HEAD_DIM)
            __stcg(reinterpret_cast<float4*>(partial + query * HEAD_DIM + column), sum.values[part]);
    }
    if (threadIdx.x % 32 == 0)
        __stcg(reinterpret_cast<float2*>(partial + QUERY_TILE * HEAD_DIM + 2 * query),
               make_float2(largest, sum.total));
}

// A result among those of its tile: of a span at level 0, of up to FAN_IN results of the level below above it.
struct Place {
    int index;
    int count;       // results of the level
    float* results;  // where they begin
    u32* counters;   // of the groups in which they are put together
    __device__ int group() const { return index / FAN_IN; }
    __device__ int groups() const { return (count + FAN_IN - 1) / FAN_IN; }
    __device__ int members() const { return min(FAN_IN, count - group() * FAN_IN); }
};

__device__ __forceinline__ Place place_of(const Task& task, int head, int level, int kv_heads, float* partials,
                                          u32* arrivals) {
    Place place{task.span, task.span_count, partials + ((long long)task.slot_first * kv_heads + head) * PARTIAL,
                arrivals + (long long)task.counter_first * kv_heads + head};
    for (; level > 0; --level) {
        place.results += (long long)place.count * kv_heads * PARTIAL;
        place.counters += place.groups() * kv_heads;
        place = Place{place.group(), place.groups(), place.results, place.counters};
    }
    return place;
}

// Counts a result of this block; true for the last one of its group, who then sees all of them.
__device__ __forceinline__ bool arrives_last(const Place& place, int kv_heads) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before) : "l"(place.counters + place.group() * kv_heads), "r"(place.members() - 1) : "memory");
    return before == place.members() - 1;
}

// After the block's last unit: counts its spans' results, and where one was the last of its group puts the group
// together, and so on with the groups. Waiting until now costs nothing, and a fence among copies is slow.
__device__ void put_spans_together(int* shared, const Task* tasks, int units, float* partials, u32* arrivals,
                                   int kv_heads, bf16* output, int output_stride) {
    const int warp = threadIdx.x / 32, grid = gridDim.x, stride = kv_heads * PARTIAL;
    int* list = shared + 1;
    int* list_count = shared;
    for (int begin = blockIdx.x; begin < units; begin += THREADS * grid) {
        int number = begin + threadIdx.x * grid;
        bool arrives = number < units && read_task(tasks, number / kv_heads).span_count > 1;
        for (int level = 0;; ++level) {
            __syncthreads();
            if (threadIdx.x == 0) *list_count = 0;
            __syncthreads();
            if (arrives) {
                const Task task = read_task(tasks, number / kv_heads);
                const Place place = place_of(task, number % kv_heads, level, kv_heads, partials, arrivals);
                if (arrives_last(place, kv_heads)) list[atomicAdd(list_count, 1)] = number;
            }
            __syncthreads();
            const int count = *list_count;
            if (count == 0) break;
            for (int item = warp; item < count * QUERY_TILE; item += WARPS) {
                const int number = list[item / QUERY_TILE], query = item % QUERY_TILE, head = number % kv_heads;
                const Task task = read_task(tasks, number / kv_heads);
                if (query >= task.query_count) continue;
                const Place place = place_of(task, head, level, kv_heads, partials, arrivals);
                const float* first = place.results + (long long)place.group() * FAN_IN * stride;
                float largest;
                const Sum sum = put_together<FAN_IN>(
                    place.members(), largest,
                    [&](int i, int column) {
                        const float* from = first + (long long)i * stride + query * HEAD_DIM + column;
                        return __ldcg(reinterpret_cast<const float4*>(from));
                    },
                    [&](int i) {
                        const float* from = first + (long long)i * stride + QUERY_TILE * HEAD_DIM + 2 * query;
                        return __ldcg(reinterpret_cast<const float2*>(from));
                    });
                float* above = place.results + (long long)(place.count + place.group()) * stride;
                if (place.groups() == 1) write_output(sum, task, head, query, output, output_stride);
                else write_partial(sum, largest, query, above);
            }
            arrives = threadIdx.x < count;
            if (arrives) {
                number = list[threadIdx.x];
                const Task task = read_task(tasks, number / kv_heads);
                arrives = place_of(task, number % kv_heads, level, kv_heads, partials, arrivals).groups() > 1;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_decode(const bf16* __restrict__ queries, int query_stride, const bf16* __restrict__ keys,
                 const bf16* __restrict__ values, const int* __restrict__ block_tables,
                 const Task* __restrict__ tasks, const int* __restrict__ task_count, float* partials, u32* arrivals,
                 bf16* __restrict__ output, int output_stride, int kv_heads, int window, float scale, float softcap) {
    extern __shared__ __align__(16) char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* merged = reinterpret_cast<float*>(shared + WARPS * STAGES * STAGE_BYTES);
    float2* stats = reinterpret_cast<float2*>(merged + WARPS * QUERY_TILE * MERGE_ROW);
    // One barrier for the warps' results of a unit, one for their having been put together, and who comes last.
    int* arrivals_here = reinterpret_cast<int*>(stats + WARPS * QUERY_TILE) + 4;
    const u32 written = (u32)__cvta_generic_to_shared(arrivals_here) - 16, done = written + 8;
    const u32 ring = (u32)__cvta_generic_to_shared(shared) + warp * STAGES * STAGE_BYTES;
    const char* key_bytes = reinterpret_cast<const char*>(keys);
    const char* value_bytes = reinterpret_cast<const char*>(values);

    let_next_kernel_start();
    const int units = __ldg(task_count) * kv_heads;
    const auto words_of = [&](int unit) { return read_words(tasks, unit / kv_heads, unit < units); };
    const int grid = gridDim.x;
    int number = blockIdx.x;
    const int words = words_of(number), next_words = words_of(number + grid);
    Unit unit = open(task_of(words), number % kv_heads, 0, block_tables);
    Unit next = open(task_of(next_words), (number + grid) % kv_heads, unit.task.page_count % WARPS, block_tables);
    if (threadIdx.x == 0) {
        *arrivals_here = 0;
        barrier_init(written, WARPS);
        barrier_init(done, 1);
    }
    __syncthreads();

    // Pages of this unit and of the next whose copies were started; the ring holds those that are not yet used.
    int loaded = 0, loaded_next = 0, waiting = 0, load_stage = 0, use_stage = 0;
    bool has_waited = false, has_spans = false;
    const u32 zero = (u32)kv_heads >> 31;  // nothing that the compiler knows
    const auto load_more = [&]() {
        while (waiting < STAGES && (loaded < unit.pages || loaded_next < next.pages)) {
            const u32 to = ring + load_stage * STAGE_BYTES;
            if (loaded < unit.pages) load_page(to, unit, loaded++, key_bytes, value_bytes, block_tables, kv_heads, has_waited);
            else load_page(to, next, loaded_next++, key_bytes, value_bytes, block_tables, kv_heads, has_waited);
            load_stage = load_stage == STAGES - 1 ? 0 : load_stage + 1;
            waiting += 1;
        }
    };
    load_more();
    if (!has_waited) wait_for_previous_kernel();
    has_waited = true;
    Fragments fragments, next_fragments;
    load_queries(fragments, unit, queries, query_stride);

    for (int turn = 0; number < units; ++turn, number += grid) {
        const int words_after = words_of(number + 2 * grid);
        load_queries(next_fragments, next, queries, query_stride);
        const Task& task = unit.task;
        const int lowest = task.position_first + task.query_first / GROUP;
        const int highest = task.position_first + (task.query_first + task.query_count - 1) / GROUP;
        int positions[TILES][2];
        State state;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
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

        for (int index = 0; index < unit.pages; ++index) {
            load_more();
            if (waiting == STAGES) asm volatile("cp.async.wait_group %0;" :: "n"(STAGES - 1) : "memory");
            else asm volatile("cp.async.wait_all;" ::: "memory");
            __syncwarp();
            const int start = (task.page_first + unit.place + index * WARPS) * BLOCK_TOKENS;
            const bool masked = start + BLOCK_TOKENS - 1 > lowest || (window > 0 && start <= highest - window);
            attend(state, fragments, ring + use_stage * STAGE_BYTES, start, masked, positions, window, scale, softcap);
            __syncwarp();
            use_stage = use_stage == STAGES - 1 ? 0 : use_stage + 1;
            waiting -= 1;
        }
        load_more();

        // The results of the unit before are put together by now, or soon.
        if (turn > 0) barrier_wait(done, (turn - 1) % 2);
        if (unit.pages > 0) {
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
                for (int t = 0; t < 2; ++t) {
                    const int column = tile * 8 + lane % 4 * 2 + t, row = unit.place * QUERY_TILE + column;
                    float* to = merged + row * MERGE_ROW + lane / 4;
                    if (column < QUERY_TILE) {
#pragma unroll
                        for (int step = 0; step < STEPS; ++step) {
                            to[step * 16] = state.output[tile][step][t];
                            to[step * 16 + 8] = state.output[tile][step][t + 2];
                        }
                    }
                    float sum = state.sum[tile][t];
                    sum += __shfl_xor_sync(~0u, sum, 4);
                    sum += __shfl_xor_sync(~0u, sum, 8);
                    sum += __shfl_xor_sync(~0u, sum, 16);
                    if (lane < 4 && column < QUERY_TILE) stats[row] = make_float2(state.largest[tile][t], sum);
                }
        }
        __syncwarp();
        int before = 0;
        if (lane == 0) {
            barrier_arrive(written);
            before = atomicAdd(arrivals_here, 1);
        }
        before = __shfl_sync(~0u, before, 0);
        if (before % WARPS == WARPS - 1) {
            barrier_wait(written, turn % 2);
            const int members = min(WARPS, task.page_count);
            const long long slot = (long long)(task.slot_first + task.span) * kv_heads + unit.head;
#pragma unroll 2
            for (int query = 0; query < task.query_count; ++query) {
                float largest;
                const Sum sum = put_together<WARPS>(
                    members, largest,
                    [&](int i, int column) {
                        const float* from = merged + (i * QUERY_TILE + query) * MERGE_ROW + column;
                        return *reinterpret_cast<const float4*>(from);
                    },
                    [&](int i) { return stats[i * QUERY_TILE + query]; });
                if (task.span_count == 1) write_output(sum, task, unit.head, query, output, output_stride);
                else write_partial(sum, largest, query, partials + slot * PARTIAL);
            }
            __syncwarp();
            if (lane == 0) barrier_arrive(done);
        }
        has_spans = has_spans || task.span_count > 1;

        // Asked for long ago. A plain copy would be moved behind the reads that follow, and wait for those as well.
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    asm volatile("or.b32 %0, %1, %2;"
                                 : "=r"(fragments[tile][step][half])
                                 : "r"(next_fragments[tile][step][half]), "r"(zero));
        const int rotation = (next.rotation + next.task.page_count) % WARPS;
        unit = next;
        next = open(task_of(words_after), (number + 2 * grid) % kv_heads, rotation, block_tables);
        loaded = loaded_next;
        loaded_next = 0;
    }
    if (has_spans)
        put_spans_together(reinterpret_cast<int*>(shared), tasks, units, partials, arrivals, kv_heads, output,
                           output_stride);
}
