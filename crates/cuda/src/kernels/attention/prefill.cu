// Attention of many rows of each sequence over its paged keys and values, with `mma.sync`: for every GPU from compute
// capability 8.0 on and every head dimension.
//
// A query is a head of a row: the query heads that share a key-value head are taken together, query q of a sequence
// being head q % GROUP of its row q / GROUP, so a tile of queries covers few positions and reads each key once for
// the whole group. A task is one tile of one sequence; a unit is a task for one key-value head: unit u is task u /
// kv_heads, head u % kv_heads. The planner puts long tasks first; a block begins with one of the first units and then
// takes whichever is next. The tile walks its keys in tiles from the last to the first, each warp with 16 * ROW_TILES
// queries, the scores and the running softmax in registers. Values are copied while scores are computed, the next
// keys while values are summed; two blocks a multiprocessor hide each other's softmax.
//
// Macros: HEAD_DIM (a multiple of 16), GROUP (query heads a key-value head). Optional: WARPS and ROW_TILES (8 and 1 for
// heads wider than 128, else 4 and 2), KEY_TILE (keys of a tile: 32 for heads of 96 and 128, else 64).
//
// Arguments of attention_prefill:
//   queries         bf16, head h of row r at queries + r * query_stride + h * HEAD_DIM
//   keys, values    bf16 [blocks][kv_heads][16][HEAD_DIM], this step's rows included
//   block_tables    int32, the tables of all sequences
//   tasks           Task[], see below
//   task_count      one int32
//   counters        u32 [2]: zero once; every launch leaves zeros
//   output          bf16, head h of row r at output + r * output_stride + h * HEAD_DIM
//   window          positions seen, the row's own included; 0: all
//   scale, softcap  score = scale * dot, then softcap * tanh(score / softcap) if softcap > 0
// Launch: any grid (as many blocks as fit at once), WARPS * 32 threads, dynamic shared memory
//   (16 * ROW_TILES * WARPS + 2 * KEY_TILE) * (2 * HEAD_DIM + 16) bytes.
//
// Papers: Milakov and Gimelshein 2018 (running softmax), Dao et al. 2022 and 2023 (FlashAttention and its split of work
// among warps), Kwon et al. 2023 (pages), Ainslie et al. 2023 (grouped heads).

#include "attention.cuh"

#ifndef WARPS
#define WARPS (HEAD_DIM > 128 ? 8 : 4)
#endif
#ifndef ROW_TILES
#define ROW_TILES (HEAD_DIM > 128 ? 1 : 2)
#endif
#ifndef KEY_TILE
#define KEY_TILE (HEAD_DIM > 80 && HEAD_DIM <= 128 ? 32 : 64)
#endif

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

constexpr int THREADS = WARPS * 32;
constexpr int WARP_ROWS = 16 * ROW_TILES;
constexpr int QUERY_TILE = WARP_ROWS * WARPS;
constexpr int TILE_BLOCKS = KEY_TILE / BLOCK_TOKENS;
constexpr int STEPS = HEAD_DIM / 16;
constexpr int CHUNKS = HEAD_DIM / 8;
// A row is 16 bytes longer than its values, so that eight rows at one column lie in different banks.
constexpr int ROW_BYTES = 2 * HEAD_DIM + 16;
static_assert(KEY_TILE * CHUNKS % THREADS == 0 && QUERY_TILE * CHUNKS % THREADS == 0, "copies must divide evenly");

// Waits for all copies of all threads; afterwards nobody reads what it read before.
__device__ __forceinline__ void finish_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
}

// Starts the copy of a tile of keys or values; each of the first lanes of a warp holds the block of one of its pages.
// Rows outside of the sequence's pages become zeros: zero times what lies there is not always zero.
__device__ __forceinline__ void copy_tile(u32 to, const bf16* pool, int block, int head, int kv_heads, int begin,
                                          int end) {
#pragma unroll
    for (int part = 0; part < KEY_TILE * CHUNKS / THREADS; ++part) {
        const int chunk = part * THREADS + threadIdx.x, row = chunk / CHUNKS, column = chunk % CHUNKS;
        const long long page = (long long)__shfl_sync(~0u, block, row / BLOCK_TOKENS) * kv_heads + head;
        const bf16* from = pool + (page * BLOCK_TOKENS + row % BLOCK_TOKENS) * HEAD_DIM + column * 8;
        copy_chunk(to + row * ROW_BYTES + column * 16, from, row >= begin && row < end);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, HEAD_DIM > 128 ? 1 : 2)
attention_prefill(const bf16* __restrict__ queries, int query_stride, const bf16* __restrict__ keys,
                  const bf16* __restrict__ values, const int* __restrict__ block_tables,
                  const Task* __restrict__ tasks, const int* __restrict__ task_count, u32* counters,
                  bf16* __restrict__ output, int output_stride, int kv_heads, int window, float scale, float softcap) {
    extern __shared__ __align__(16) char shared[];
    __shared__ int next_unit;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 query_tile = (u32)__cvta_generic_to_shared(shared);
    const u32 key_tile = query_tile + QUERY_TILE * ROW_BYTES, value_tile = key_tile + KEY_TILE * ROW_BYTES;
    const u32 query_from = query_tile + (warp * WARP_ROWS + lane % 16) * ROW_BYTES + lane / 16 * 16;
    const u32 key_from = key_tile + (lane % 8 + lane / 16 * 8) * ROW_BYTES + lane / 8 % 2 * 16;
    const u32 value_from = value_tile + lane % 16 * ROW_BYTES + lane / 16 * 16;
    const float factor = softcap > 0.0f ? LOG2_E : scale * LOG2_E, cap_factor = __fdividef(scale, softcap);

    let_next_kernel_start();
    const int units = __ldg(task_count) * kv_heads;
    const bool is_shared_out = units > gridDim.x;
    wait_for_previous_kernel();

    // Two blocks of a multiprocessor begin with a long and a short unit.
    const int half = gridDim.x / 2;
    for (int unit = blockIdx.x < half ? blockIdx.x : gridDim.x - 1 - (blockIdx.x - half); unit < units;) {
        const int head = unit % kv_heads;
        const int4* words = reinterpret_cast<const int4*>(tasks + unit / kv_heads);
        const int4 rows = __ldg(words), place = __ldg(words + 1);
        const int row_first = rows.x, position_first = rows.y, query_first = rows.z, query_count = rows.w;
        const int* table = block_tables + place.x;
        const int lowest = position_first + query_first / GROUP;
        const int highest = position_first + (query_first + query_count - 1) / GROUP;
        const int key_end = highest + 1;
        // Pages before the first that any of its queries sees may be gone.
        const int page_first = window > 0 && lowest >= window ? (lowest - window + 1) / BLOCK_TOKENS : 0;
        const int key_begin = page_first * BLOCK_TOKENS, tile_first = page_first / TILE_BLOCKS;
        int tile = highest / KEY_TILE;

        // The blocks of a tile, one a lane, read well before they are needed.
        const auto blocks_of = [&](int tile) {
            const int page = tile * TILE_BLOCKS + lane;
            const bool present = page >= page_first && lane < TILE_BLOCKS && page * BLOCK_TOKENS < key_end;
            return present ? __ldg(table + page) : 0;
        };
        int block = blocks_of(tile), next_block = blocks_of(tile - 1);

#pragma unroll
        for (int part = 0; part < QUERY_TILE * CHUNKS / THREADS; ++part) {
            const int chunk = part * THREADS + threadIdx.x, row = chunk / CHUNKS, column = chunk % CHUNKS;
            const int query = query_first + row;
            const bf16* from = queries + (long long)(row_first + query / GROUP) * query_stride
                + (head * GROUP + query % GROUP) * HEAD_DIM + column * 8;
            const bool present = row < query_count;
            copy_chunk(query_tile + row * ROW_BYTES + column * 16, present ? from : queries, present);
        }
        copy_tile(key_tile, keys, block, head, kv_heads, key_begin - tile * KEY_TILE, key_end - tile * KEY_TILE);

        float sums[ROW_TILES][HEAD_DIM / 8][4];
        float largest[ROW_TILES][2], total[ROW_TILES][2];
        int positions[ROW_TILES][2];
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                largest[i][half] = NOTHING;
                total[i][half] = 0.0f;
                const int row = warp * WARP_ROWS + i * 16 + half * 8 + lane / 4;
                positions[i][half] = position_first + (query_first + row) / GROUP;
            }
#pragma unroll
            for (int column = 0; column < HEAD_DIM / 8; ++column)
#pragma unroll
                for (int k = 0; k < 4; ++k) sums[i][column][k] = 0.0f;
        }

        bool is_first = true;
        for (; tile >= tile_first; --tile) {
            finish_copies();
            if (is_first && is_shared_out && threadIdx.x == 0) next_unit = gridDim.x + atomicAdd(counters, 1u);
            is_first = false;
            const int start = tile * KEY_TILE;
            copy_tile(value_tile, values, block, head, kv_heads, key_begin - start, key_end - start);

            float scores[ROW_TILES][KEY_TILE / 8][4] = {};
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                u32 query[ROW_TILES][4];
#pragma unroll
                for (int i = 0; i < ROW_TILES; ++i)
                    load_matrices(query[i], query_from + i * 16 * ROW_BYTES + step * 32);
#pragma unroll
                for (int pair = 0; pair < KEY_TILE / 16; ++pair) {
                    u32 key[4];
                    load_matrices(key, key_from + pair * 16 * ROW_BYTES + step * 32);
#pragma unroll
                    for (int i = 0; i < ROW_TILES; ++i) {
                        multiply(scores[i][2 * pair], query[i], key[0], key[1]);
                        multiply(scores[i][2 * pair + 1], query[i], key[2], key[3]);
                    }
                }
            }

            finish_copies();
            block = next_block;
            next_block = blocks_of(tile - 2);
            if (tile > tile_first)
                copy_tile(key_tile, keys, block, head, kv_heads, key_begin - start + KEY_TILE, KEY_TILE);

            const bool is_masked = start + KEY_TILE - 1 > lowest || (window > 0 && start <= highest - window);
#pragma unroll
            for (int i = 0; i < ROW_TILES; ++i) {
                if (softcap > 0.0f) {
#pragma unroll
                    for (int column = 0; column < KEY_TILE / 8; ++column)
#pragma unroll
                        for (int k = 0; k < 4; ++k)
                            scores[i][column][k] = softcap * tanh_of(scores[i][column][k] * cap_factor);
                }
                if (is_masked) {
#pragma unroll
                    for (int column = 0; column < KEY_TILE / 8; ++column)
#pragma unroll
                        for (int k = 0; k < 4; ++k) {
                            const int position = start + column * 8 + lane % 4 * 2 + k % 2, own = positions[i][k / 2];
                            const bool seen = position <= own && (window == 0 || position > own - window);
                            if (!seen) scores[i][column][k] = NOTHING;
                        }
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float most = scores[i][0][2 * half];
#pragma unroll
                    for (int column = 0; column < KEY_TILE / 8; ++column)
                        most = fmaxf(most, fmaxf(scores[i][column][2 * half], scores[i][column][2 * half + 1]));
                    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
                    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
                    most = fmaxf(largest[i][half], most * factor);
                    // While nothing is seen, any finite number keeps the weights at zero.
                    const float base = most == NOTHING ? 0.0f : most;
                    const float shrink = exp2_fast(largest[i][half] - base);
                    largest[i][half] = most;
                    float sum = 0.0f;
#pragma unroll
                    for (int column = 0; column < KEY_TILE / 8; ++column)
#pragma unroll
                        for (int k = 2 * half; k < 2 * half + 2; ++k) {
                            scores[i][column][k] = exp2_fast(fmaf(scores[i][column][k], factor, -base));
                            sum += scores[i][column][k];
                        }
                    total[i][half] = fmaf(total[i][half], shrink, sum);
#pragma unroll
                    for (int column = 0; column < HEAD_DIM / 8; ++column) {
                        sums[i][column][2 * half] *= shrink;
                        sums[i][column][2 * half + 1] *= shrink;
                    }
                }
            }

#pragma unroll
            for (int step = 0; step < KEY_TILE / 16; ++step) {
                u32 weights[ROW_TILES][4];
#pragma unroll
                for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
                    for (int k = 0; k < 4; ++k)
                        weights[i][k] = pack(scores[i][2 * step + k / 2][k % 2 * 2],
                                             scores[i][2 * step + k / 2][k % 2 * 2 + 1]);
#pragma unroll
                for (int pair = 0; pair < STEPS; ++pair) {
                    u32 value[4];
                    load_transposed(value, value_from + step * 16 * ROW_BYTES + pair * 32);
#pragma unroll
                    for (int i = 0; i < ROW_TILES; ++i) {
                        multiply(sums[i][2 * pair], weights[i], value[0], value[1]);
                        multiply(sums[i][2 * pair + 1], weights[i], value[2], value[3]);
                    }
                }
            }
        }

#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float sum = total[i][half];
                sum += __shfl_xor_sync(~0u, sum, 1);
                sum += __shfl_xor_sync(~0u, sum, 2);
                const float inverse = __fdividef(1.0f, sum);
                const int row = warp * WARP_ROWS + i * 16 + half * 8 + lane / 4, query = query_first + row;
                if (row >= query_count) continue;
                bf16* to = output + (long long)(row_first + query / GROUP) * output_stride
                    + (head * GROUP + query % GROUP) * HEAD_DIM + lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < HEAD_DIM / 8; ++column)
                    *reinterpret_cast<u32*>(to + column * 8) =
                        pack(sums[i][column][2 * half] * inverse, sums[i][column][2 * half + 1] * inverse);
            }
        __syncthreads();
        unit = is_shared_out ? next_unit : units;
    }

    // The last block to leave makes the counters ready for the next launch.
    if (is_shared_out && threadIdx.x == 0 && atomicAdd(counters + 1, 1u) == gridDim.x - 1) {
        counters[0] = 0;
        counters[1] = 0;
    }
}
