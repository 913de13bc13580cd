// Attention of many rows of each sequence over its paged keys and values, for compute capability 9.0 (`sm_90a`):
// products by warpgroups out of shared memory (`wgmma`), pages brought by the tensor memory accelerator.
//
// Queries, tasks and units as in prefill.cu: query q of a sequence is head q % GROUP of its row q / GROUP, a task is
// a tile of queries of one sequence, unit u is task u / kv_heads for key-value head u % kv_heads, long ones first. A
// block begins with a long unit and a short one and then takes whichever is next.
//
// One warpgroup copies and the others compute, 64 queries each. Of the copying one, the first warp chooses units,
// tells the others, and brings keys page by page, the second brings values, both up to two tiles ahead; the other two
// bring the queries of the unit after, whose rows are scattered. A computing warpgroup issues the scores of a tile,
// then the weighted sum of the values of the tile before, and does the softmax of the former while the tensor cores
// do the latter and the other warpgroup's products.
//
// Macros: HEAD_DIM (64, 80, 96, 128 or 256), GROUP (query heads a key-value head). Optional: CONSUMERS (computing
// warpgroups: 2), KEY_TILE (keys of a tile: 128, or 64 for heads wider than 128), QUERY_STAGES (tiles of queries
// held: 2, or 1 for heads wider than 128), KEY_STAGES (2), VALUE_STAGES (3, or 2 for heads wider than 128).
//
// Arguments of attention_prefill_hopper:
//   queries         bf16, head h of row r at queries + r * query_stride + h * HEAD_DIM
//   keys, values    tensor maps of the pools bf16 [blocks][kv_heads][16][HEAD_DIM], seen as blocks * kv_heads * 16 rows
//                   of HEAD_DIM: boxes of 16 rows of 64 columns, 128-byte swizzle, zeros outside
//   block_tables    int32, the tables of all sequences
//   tasks           Task[], see below
//   task_count      one int32
//   counters        u32 [2]: zero once; every launch leaves zeros
//   output          bf16, head h of row r at output + r * output_stride + h * HEAD_DIM
//   window          positions seen, the row's own included; 0: all
//   scale, softcap  score = scale * dot, then softcap * tanh(score / softcap) if softcap > 0
// Launch: any grid (one block a multiprocessor), (CONSUMERS + 1) * 128 threads, dynamic shared memory
//   1280 + 128 * ceil(HEAD_DIM / 64) * (QUERY_STAGES * 64 * CONSUMERS + (KEY_STAGES + VALUE_STAGES) * KEY_TILE) bytes.
//
// Papers: Shah et al. 2024 (FlashAttention-3: roles of warpgroups, softmax under products), Dao 2023, Milakov and
// Gimelshein 2018 (running softmax), Kwon et al. 2023 (pages), Ainslie et al. 2023 (grouped heads).

#include "attention.cuh"

#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef KEY_TILE
#define KEY_TILE (HEAD_DIM > 128 ? 64 : 128)
#endif
#ifndef QUERY_STAGES
#define QUERY_STAGES (HEAD_DIM > 128 ? 1 : 2)
#endif
#ifndef KEY_STAGES
#define KEY_STAGES 2
#endif
#ifndef VALUE_STAGES
#define VALUE_STAGES (HEAD_DIM > 128 ? 2 : 3)
#endif

typedef unsigned long long u64;

struct alignas(64) TensorMap {
    char bytes[128];
};

// What the planner writes: two groups of four numbers, each read at once.
struct Task {
    int row_first;       // the sequence's first row in the step
    int position_first;  // the position of that row
    int query_first;     // first query of the tile
    int query_count;
    int table_first;     // where the sequence's table begins in block_tables
    int position_end;    // one past the sequence's last position
    int unused[2];
};

constexpr int QUERY_TILE = 64 * CONSUMERS;
constexpr int TILE_BLOCKS = KEY_TILE / BLOCK_TOKENS;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int CHUNKS = HEAD_DIM / 8;
// Columns lie in groups of 64: a row of a group is the 128 bytes of the swizzle.
constexpr int ROW_BYTES = 128;
constexpr int COLUMN_GROUPS = (HEAD_DIM + 63) / 64;
constexpr int QUERY_BYTES = COLUMN_GROUPS * QUERY_TILE * ROW_BYTES;
constexpr int TILE_BYTES = COLUMN_GROUPS * KEY_TILE * ROW_BYTES;
constexpr int PAGE_BYTES = COLUMN_GROUPS * BLOCK_TOKENS * ROW_BYTES;
constexpr int UNIT_STAGES = 2;
constexpr int LOADERS = 64;
constexpr int COPY_REGISTERS = CONSUMERS == 2 ? 40 : 56;
constexpr int COMPUTE_REGISTERS = CONSUMERS == 2 ? 232 : 152;

__device__ __forceinline__ void copy_page(u32 to, const TensorMap* map, int column, int row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];"
                 :: "r"(to), "l"(map), "r"(column), "r"(row), "r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_init(u32 barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_arrive_expecting(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" :: "r"(barrier), "r"(parity) : "memory");
}

// Ordinary stores to shared memory before it are seen by the tensor cores and the copy engine after it.
__device__ __forceinline__ void publish_stores() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A ring of stages with a barrier each for full and for empty; which one is next, and in which round.
template <int COUNT>
struct Ring {
    u32 barriers;  // full ones, then empty ones
    int stage = 0;
    int round = 0;
    __device__ explicit Ring(u32 barriers) : barriers(barriers) {}
    __device__ u32 full() const { return barriers + stage * 8; }
    __device__ u32 empty() const { return barriers + (COUNT + stage) * 8; }
    __device__ void wait_full() const { barrier_wait(full(), round); }
    __device__ void wait_empty() const { barrier_wait(empty(), round ^ 1); }
    // One arrival for the warp.
    __device__ void release() const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(empty());
    }
    __device__ void advance() {
        stage += 1;
        if (stage == COUNT) {
            stage = 0;
            round ^= 1;
        }
    }
};

template <int COUNT>
__device__ void init_ring(u32 barriers, int full_arrivals, int empty_arrivals) {
    for (int stage = 0; stage < COUNT; ++stage) {
        barrier_init(barriers + stage * 8, full_arrivals);
        barrier_init(barriers + (COUNT + stage) * 8, empty_arrivals);
    }
}

// Describes a matrix in shared memory with the 128-byte swizzle: groups of eight rows are 1024 bytes apart; columns of
// the next 64 are `columns_apart` bytes away where the product runs along rows.
__device__ __forceinline__ u64 matrix_at(u32 address, int columns_apart) {
    return (u64)(address >> 4 & 0x3fff) | (u64)(columns_apart >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int COUNT>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(COUNT) : "memory");
}

// The compiler may not move uses of these registers across.
template <int COUNT>
__device__ __forceinline__ void hold(float (&values)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(values[i]) :: "memory");
}

template <int COUNT>
__device__ __forceinline__ void hold(u32 (&values)[COUNT][4]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) asm volatile("" : "+r"(values[i][k]) :: "memory");
}

#define REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
    ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_32_TO_40 \
    ", %32, %33, %34, %35, %36, %37, %38, %39"
#define REGISTERS_40_TO_48 \
    ", %40, %41, %42, %43, %44, %45, %46, %47"
#define REGISTERS_48_TO_64 \
    ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_64_TO_128 \
    ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define OPERANDS_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
    "+f"(d[i + 7])
#define OPERANDS_32(d, i) OPERANDS_8(d, i), OPERANDS_8(d, i + 8), OPERANDS_8(d, i + 16), OPERANDS_8(d, i + 24)

#define SCORES(width, list, a, b, more, operands...) \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " more ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" width "k16.f32.bf16.bf16 {" list "}, " a ", " b \
                 ", p, 1, 1, 0, 0;\n}" \
                 : operands : "l"(queries), "l"(keys), "r"(accumulate))

// Adds queries * keys^T, 16 columns of each; both lie in shared memory along their rows.
__device__ __forceinline__ void multiply_keys(float (&d)[KEY_TILE / 2], u64 queries, u64 keys, int accumulate) {
    if constexpr (KEY_TILE == 64)
        SCORES("64", REGISTERS_32, "%32", "%33", "%34", OPERANDS_32(d, 0));
    else
        SCORES("128", REGISTERS_32 REGISTERS_32_TO_40 REGISTERS_40_TO_48 REGISTERS_48_TO_64, "%64", "%65", "%66",
               OPERANDS_32(d, 0), OPERANDS_32(d, 32));
}

#define SUMS(width, list, a0, a1, a2, a3, b, more, operands...) \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " more ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" width "k16.f32.bf16.bf16 {" list "}, {" a0 ", " a1 ", " a2 \
                 ", " a3 "}, " b ", p, 1, 1, 1;\n}" \
                 : operands \
                 : "r"(weights[0]), "r"(weights[1]), "r"(weights[2]), "r"(weights[3]), "l"(values), "r"(accumulate))

// Adds weights * values for 16 keys; the values lie in shared memory across their rows.
__device__ __forceinline__ void multiply_values(float (&d)[HEAD_DIM / 2], const u32 (&weights)[4], u64 values,
                                                int accumulate) {
    if constexpr (HEAD_DIM == 64)
        SUMS("64", REGISTERS_32, "%32", "%33", "%34", "%35", "%36", "%37", OPERANDS_32(d, 0));
    else if constexpr (HEAD_DIM == 80)
        SUMS("80", REGISTERS_32 REGISTERS_32_TO_40, "%40", "%41", "%42", "%43", "%44", "%45", OPERANDS_32(d, 0),
             OPERANDS_8(d, 32));
    else if constexpr (HEAD_DIM == 96)
        SUMS("96", REGISTERS_32 REGISTERS_32_TO_40 REGISTERS_40_TO_48, "%48", "%49", "%50", "%51", "%52", "%53",
             OPERANDS_32(d, 0), OPERANDS_8(d, 32), OPERANDS_8(d, 40));
    else if constexpr (HEAD_DIM == 128)
        SUMS("128", REGISTERS_32 REGISTERS_32_TO_40 REGISTERS_40_TO_48 REGISTERS_48_TO_64, "%64", "%65", "%66", "%67",
             "%68", "%69", OPERANDS_32(d, 0), OPERANDS_32(d, 32));
    else
        SUMS("256", REGISTERS_32 REGISTERS_32_TO_40 REGISTERS_40_TO_48 REGISTERS_48_TO_64 REGISTERS_64_TO_128, "%128",
             "%129", "%130", "%131", "%132", "%133", OPERANDS_32(d, 0), OPERANDS_32(d, 32), OPERANDS_32(d, 64),
             OPERANDS_32(d, 96));
}

// A unit as the choosing warp tells it to the others.
struct Unit {
    int row_first;
    int position_first;
    int query_first;
    int query_count;
    int table_first;
    int position_end;
    int head;
    int present;  // 0 after the last one
    __device__ int lowest() const { return position_first + query_first / GROUP; }
    __device__ int highest() const { return position_first + (query_first + query_count - 1) / GROUP; }
    // The first page that any of its queries sees; those before it may be gone.
    __device__ int page_first(int window) const {
        return window > 0 && lowest() >= window ? (lowest() - window + 1) / BLOCK_TOKENS : 0;
    }
};

// What lies in shared memory, and where.
struct Shared {
    u32 queries, keys, values, barriers;
    int4* units;
    __device__ u32 key_barriers() const { return barriers; }
    __device__ u32 value_barriers() const { return key_barriers() + 16 * KEY_STAGES; }
    __device__ u32 query_barriers() const { return value_barriers() + 16 * VALUE_STAGES; }
    __device__ u32 unit_barriers() const { return query_barriers() + 16 * QUERY_STAGES; }
    __device__ Unit unit(int stage) const {
        const int4 a = units[2 * stage], b = units[2 * stage + 1];
        return Unit{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    }
};

struct Arguments {
    const bf16* queries;
    int query_stride;
    const TensorMap* keys;
    const TensorMap* values;
    const int* block_tables;
    const Task* tasks;
    const int* task_count;
    u32* counters;
    bf16* output;
    int output_stride;
    int kv_heads;
    int window;
    float scale;
    float softcap;
};

// Brings the tiles of a unit's keys or values, from the last to the first.
template <int COUNT>
__device__ __forceinline__ void bring_tiles(const Arguments& arguments, const Unit& unit, Ring<COUNT>& ring,
                                            const TensorMap* map, u32 tiles) {
    const int lane = threadIdx.x % 32;
    const int page_first = unit.page_first(arguments.window), tile_first = page_first / TILE_BLOCKS;
    // The first rows of a tile's pages in the pool, one a lane, read a tile ahead.
    const auto rows_of = [&](int tile) {
        const int page = tile * TILE_BLOCKS + lane;
        if (page < page_first || lane >= TILE_BLOCKS || page * BLOCK_TOKENS >= unit.position_end) return -1;
        const int block = __ldg(arguments.block_tables + unit.table_first + page);
        return (block * arguments.kv_heads + unit.head) * BLOCK_TOKENS;
    };
    int tile = unit.highest() / KEY_TILE;
    int rows = rows_of(tile);
    for (; tile >= tile_first; --tile) {
        const int next_rows = rows_of(tile - 1);
        const int bytes = __popc(__ballot_sync(~0u, rows >= 0)) * PAGE_BYTES;
        ring.wait_empty();
        if (lane == 0) barrier_arrive_expecting(ring.full(), bytes);
        __syncwarp();
#pragma unroll
        for (int page = 0; page < TILE_BLOCKS; ++page) {
            const int row = __shfl_sync(~0u, rows, page);
            if (lane != 0 || row < 0) continue;
            const u32 to = tiles + ring.stage * TILE_BYTES + page * BLOCK_TOKENS * ROW_BYTES;
#pragma unroll
            for (int group = 0; group < COLUMN_GROUPS; ++group)
                copy_page(to + group * KEY_TILE * ROW_BYTES, map, group * 64, row, ring.full());
        }
        ring.advance();
        rows = next_rows;
    }
}

__device__ __forceinline__ Unit read_unit(const Arguments& arguments, int number, int units) {
    if (number >= units) return Unit{};
    const int4* words = reinterpret_cast<const int4*>(arguments.tasks + number / arguments.kv_heads);
    const int4 a = __ldg(words), b = __ldg(words + 1);
    return Unit{a.x, a.y, a.z, a.w, b.x, b.y, number % arguments.kv_heads, 1};
}

// The first warp: chooses units, tells the others a unit ahead, and brings their keys. The first two units of a block
// are a long one and a short one, the others whichever is next.
__device__ __forceinline__ void bring_keys(const Arguments& arguments, const Shared& shared) {
    const int lane = threadIdx.x % 32, grid = gridDim.x;
    const int units = __ldg(arguments.task_count) * arguments.kv_heads;
    const bool is_shared_out = units > 2 * grid;
    Ring<KEY_STAGES> key_ring(shared.key_barriers());
    Ring<UNIT_STAGES> unit_ring(shared.unit_barriers());
    const auto tell = [&](const Unit& unit) {
        unit_ring.wait_empty();
        if (lane == 0) {
            shared.units[2 * unit_ring.stage] =
                make_int4(unit.row_first, unit.position_first, unit.query_first, unit.query_count);
            shared.units[2 * unit_ring.stage + 1] =
                make_int4(unit.table_first, unit.position_end, unit.head, unit.present);
            barrier_arrive(unit_ring.full());
        }
        unit_ring.advance();
    };
    Unit unit = read_unit(arguments, blockIdx.x, units);
    Unit next = read_unit(arguments, 2 * grid - 1 - blockIdx.x, units);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    tell(unit);
    while (unit.present) {
        tell(next);
        int number = units;
        if (is_shared_out && next.present && lane == 0) number = 2 * grid + atomicAdd(arguments.counters, 1u);
        bring_tiles(arguments, unit, key_ring, arguments.keys, shared.keys);
        unit = next;
        next = read_unit(arguments, __shfl_sync(~0u, number, 0), units);
    }
    // The last block to leave makes the counters ready for the next launch.
    if (is_shared_out && lane == 0 && atomicAdd(arguments.counters + 1, 1u) == gridDim.x - 1) {
        arguments.counters[0] = 0;
        arguments.counters[1] = 0;
    }
}

// The second warp: brings the values of the units.
__device__ __forceinline__ void bring_values(const Arguments& arguments, const Shared& shared) {
    Ring<VALUE_STAGES> value_ring(shared.value_barriers());
    Ring<UNIT_STAGES> unit_ring(shared.unit_barriers());
    asm volatile("griddepcontrol.wait;" ::: "memory");
    while (true) {
        unit_ring.wait_full();
        const Unit unit = shared.unit(unit_ring.stage);
        unit_ring.release();
        unit_ring.advance();
        if (!unit.present) return;
        bring_tiles(arguments, unit, value_ring, arguments.values, shared.values);
    }
}

// The last two copying warps: bring the queries of the units.
__device__ __forceinline__ void bring_queries(const Arguments& arguments, const Shared& shared) {
    const int thread = threadIdx.x - 64;
    Ring<UNIT_STAGES> unit_ring(shared.unit_barriers());
    Ring<QUERY_STAGES> query_ring(shared.query_barriers());
    asm volatile("griddepcontrol.wait;" ::: "memory");
    while (true) {
        unit_ring.wait_full();
        const Unit unit = shared.unit(unit_ring.stage);
        unit_ring.release();
        unit_ring.advance();
        if (!unit.present) return;
        query_ring.wait_empty();
        const u32 tile = shared.queries + query_ring.stage * QUERY_BYTES;
#pragma unroll 4
        for (int chunk = thread; chunk < QUERY_TILE * CHUNKS; chunk += LOADERS) {
            const int row = chunk / CHUNKS, column = chunk % CHUNKS, query = unit.query_first + row;
            const bool present = row < unit.query_count;
            const bf16* from = arguments.queries + (long long)(unit.row_first + query / GROUP) * arguments.query_stride
                + (unit.head * GROUP + query % GROUP) * HEAD_DIM + column * 8;
            const u32 to = tile + (column / 8 * QUERY_TILE + row) * ROW_BYTES + (column % 8 ^ row % 8) * 16;
            copy_chunk(to, present ? from : arguments.queries, present);
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
        publish_stores();
        barrier_arrive(query_ring.full());
        query_ring.advance();
    }
}

// A computing warpgroup.
__device__ __forceinline__ void compute(const Arguments& arguments, const Shared& shared) {
    const int group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128, lane = threadIdx.x % 32;
    const int window = arguments.window;
    const float softcap = arguments.softcap, cap_factor = __fdividef(arguments.scale, softcap);
    const float factor = softcap > 0.0f ? LOG2_E : arguments.scale * LOG2_E;
    Ring<KEY_STAGES> key_ring(shared.key_barriers());
    Ring<VALUE_STAGES> value_ring(shared.value_barriers());
    Ring<QUERY_STAGES> query_ring(shared.query_barriers());
    Ring<UNIT_STAGES> unit_ring(shared.unit_barriers());

    while (true) {
        unit_ring.wait_full();
        const Unit unit = shared.unit(unit_ring.stage);
        unit_ring.release();
        unit_ring.advance();
        if (!unit.present) return;

        // This lane's two rows of the tile, eight apart.
        const int row = group * 64 + thread / 32 * 16 + lane / 4;
        int positions[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            positions[half] = unit.position_first + (unit.query_first + row + half * 8) / GROUP;
        const int lowest = unit.lowest(), highest = unit.highest(), page_first = unit.page_first(window);
        const int tile_first = page_first / TILE_BLOCKS, tile_last = highest / KEY_TILE;

        float scores[KEY_TILE / 2], sums[HEAD_DIM / 2];
        float largest[2] = {NOTHING, NOTHING}, total[2] = {0.0f, 0.0f}, shrink[2];
        u32 weights[KEY_TILE / 16][4];

        const u64 queries = matrix_at(shared.queries + query_ring.stage * QUERY_BYTES + group * 64 * ROW_BYTES, 16);
        const auto start_scores = [&]() {
            const u64 keys = matrix_at(shared.keys + key_ring.stage * TILE_BYTES, 16);
#pragma unroll
            for (int step = 0; step < STEPS; ++step)
                multiply_keys(scores, queries + (step / 4 * QUERY_TILE * ROW_BYTES + step % 4 * 32) / 16,
                              keys + (step / 4 * KEY_TILE * ROW_BYTES + step % 4 * 32) / 16, step > 0);
            products_commit();
        };
        const auto start_sums = [&](int tile) {
            const u64 values = matrix_at(shared.values + value_ring.stage * TILE_BYTES, KEY_TILE * ROW_BYTES);
#pragma unroll
            for (int step = 0; step < KEY_TILE / 16; ++step)
                multiply_values(sums, weights[step], values + step * ROW_BYTES, step > 0 || tile < tile_last);
            products_commit();
        };
        // What lies outside of the sequence's pages may be anything, and zero times that is not always zero.
        const auto clear_values_outside = [&](int tile) {
            const int begin = page_first * BLOCK_TOKENS - tile * KEY_TILE, end = unit.position_end - tile * KEY_TILE;
            if (begin <= 0 && end >= KEY_TILE) return;
            const u32 values = shared.values + value_ring.stage * TILE_BYTES;
            for (int chunk = thread; chunk < KEY_TILE * 8; chunk += 128) {
                if (chunk / 8 >= begin && chunk / 8 < end) continue;
#pragma unroll
                for (int columns = 0; columns < COLUMN_GROUPS; ++columns)
                    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};"
                                 :: "r"(values + columns * KEY_TILE * ROW_BYTES + chunk * 16), "r"(0) : "memory");
            }
            publish_stores();
            asm volatile("bar.sync %0, 128;" :: "r"(1 + group) : "memory");
        };
        // Scores to weights, and by how much earlier results shrink.
        const auto soften = [&](int tile) {
            const int start = tile * KEY_TILE;
            if (softcap > 0.0f) {
#pragma unroll
                for (int i = 0; i < KEY_TILE / 2; ++i) scores[i] = softcap * tanh_of(scores[i] * cap_factor);
            }
            if (start + KEY_TILE - 1 > lowest || (window > 0 && start <= highest - window)) {
#pragma unroll
                for (int i = 0; i < KEY_TILE / 2; ++i) {
                    const int position = start + i / 4 * 8 + lane % 4 * 2 + i % 2, own = positions[i / 2 % 2];
                    const bool seen = position <= own && (window == 0 || position > own - window);
                    if (!seen) scores[i] = NOTHING;
                }
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float most = scores[2 * half];
#pragma unroll
                for (int column = 0; column < KEY_TILE / 8; ++column)
                    most = fmaxf(most, fmaxf(scores[4 * column + 2 * half], scores[4 * column + 2 * half + 1]));
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                most = fmaxf(largest[half], most * factor);
                // While nothing is seen, any finite number keeps the weights at zero.
                const float base = most == NOTHING ? 0.0f : most;
                shrink[half] = exp2_fast(largest[half] - base);
                largest[half] = most;
                float sum = 0.0f;
#pragma unroll
                for (int column = 0; column < KEY_TILE / 8; ++column)
#pragma unroll
                    for (int k = 0; k < 2; ++k) {
                        float& score = scores[4 * column + 2 * half + k];
                        score = exp2_fast(fmaf(score, factor, -base));
                        sum += score;
                    }
                total[half] = fmaf(total[half], shrink[half], sum);
            }
        };
        const auto pack_weights = [&]() {
#pragma unroll
            for (int step = 0; step < KEY_TILE / 16; ++step)
#pragma unroll
                for (int k = 0; k < 4; ++k)
                    weights[step][k] = pack(scores[8 * step + 2 * k], scores[8 * step + 2 * k + 1]);
        };

        query_ring.wait_full();
        key_ring.wait_full();
        products_begin();
        start_scores();
        products_wait<0>();
        hold(scores);
        key_ring.release();
        key_ring.advance();
        soften(tile_last);
        pack_weights();

        if (tile_last > tile_first) key_ring.wait_full();
        value_ring.wait_full();
        clear_values_outside(tile_last);
        for (int tile = tile_last - 1; tile >= tile_first; --tile) {
            hold(sums);
            hold(weights);
            products_begin();
            start_scores();
            start_sums(tile + 1);
            products_wait<1>();
            hold(scores);
            key_ring.release();
            key_ring.advance();
            soften(tile);
            // The next keys are waited for here, since the compiler moves the wait for the sums to the front of the
            // softmax unless there is a loop between them, one that needs the softmax: totals are never negative.
            if (tile > tile_first) barrier_wait(key_ring.full(), key_ring.round ^ (total[0] + total[1] < 0.0f));
            products_wait<0>();
            hold(sums);
            hold(weights);
            value_ring.release();
            value_ring.advance();
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 2; ++i) sums[i] *= shrink[i / 2 % 2];
            pack_weights();
            value_ring.wait_full();
            clear_values_outside(tile);
        }
        query_ring.release();
        query_ring.advance();
        hold(sums);
        hold(weights);
        products_begin();
        start_sums(tile_first);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            total[half] += __shfl_xor_sync(~0u, total[half], 1);
            total[half] += __shfl_xor_sync(~0u, total[half], 2);
        }
        products_wait<0>();
        hold(sums);
        hold(weights);
        value_ring.release();
        value_ring.advance();

#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = unit.query_first + row + half * 8;
            if (row + half * 8 >= unit.query_count) continue;
            const float inverse = __fdividef(1.0f, total[half]);
            bf16* to = arguments.output + (long long)(unit.row_first + query / GROUP) * arguments.output_stride
                + (unit.head * GROUP + query % GROUP) * HEAD_DIM + lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < HEAD_DIM / 8; ++column)
                *reinterpret_cast<u32*>(to + column * 8) =
                    pack(sums[4 * column + 2 * half] * inverse, sums[4 * column + 2 * half + 1] * inverse);
        }
    }
}

extern "C" __global__ void __launch_bounds__((CONSUMERS + 1) * 128, 1)
attention_prefill_hopper(const bf16* __restrict__ queries, int query_stride, const __grid_constant__ TensorMap keys,
                         const __grid_constant__ TensorMap values, const int* __restrict__ block_tables,
                         const Task* __restrict__ tasks, const int* __restrict__ task_count, u32* counters,
                         bf16* __restrict__ output, int output_stride, int kv_heads, int window, float scale,
                         float softcap) {
    extern __shared__ char dynamic[];
    __shared__ int4 units[2 * UNIT_STAGES];
    Shared shared;
    shared.queries = ((u32)__cvta_generic_to_shared(dynamic) + 1023) / 1024 * 1024;
    shared.keys = shared.queries + QUERY_STAGES * QUERY_BYTES;
    shared.values = shared.keys + KEY_STAGES * TILE_BYTES;
    shared.barriers = shared.values + VALUE_STAGES * TILE_BYTES;
    shared.units = units;
    const Arguments arguments{queries, query_stride, &keys, &values, block_tables, tasks, task_count,
                              counters, output, output_stride, kv_heads, window, scale, softcap};

    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (threadIdx.x == 0) {
        init_ring<KEY_STAGES>(shared.key_barriers(), 1, CONSUMERS * 4);
        init_ring<VALUE_STAGES>(shared.value_barriers(), 1, CONSUMERS * 4);
        init_ring<QUERY_STAGES>(shared.query_barriers(), LOADERS, CONSUMERS * 4);
        init_ring<UNIT_STAGES>(shared.unit_barriers(), 1, CONSUMERS * 4 + 1 + LOADERS / 32);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("prefetch.tensormap [%0];" :: "l"(&keys) : "memory");
        asm volatile("prefetch.tensormap [%0];" :: "l"(&values) : "memory");
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(COPY_REGISTERS));
        if (threadIdx.x < 32) bring_keys(arguments, shared);
        else if (threadIdx.x < 64) bring_values(arguments, shared);
        else bring_queries(arguments, shared);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(COMPUTE_REGISTERS));
        compute(arguments, shared);
    }
}
