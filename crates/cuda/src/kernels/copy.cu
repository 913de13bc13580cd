// Copies blocks of keys and values between the pools of all layers and the host's memory, which the kernel reads and
// writes over the link: a block is many short strips, two a layer, and a copy by the driver for each would cost more than
// what it copies.
//
// A strip is [kv_heads][16][head_dim] of one layer's keys or values. In a pool they lie block by block; in the host's
// memory all strips of a slot lie side by side: [slots][layers][2][strip]. One block of threads a strip of a copy.

#include "common.cuh"

struct CopyArguments {
    const u64* pools;    // [layers][2], the addresses of [blocks][strip]
    uint4* host;         // [slots][layers][2][strip]
    const int2* copies;  // [gridDim.x], a block and a slot; in the host's memory too
    int strip;           // 16 bytes each
    int to_host;
};

// Loads under way at once in a thread: the link is far.
constexpr int LOADS = 4;

extern "C" __global__ void __launch_bounds__(256) copy_blocks(const CopyArguments a) {
    const int2 copy = a.copies[blockIdx.x];
    uint4* block = (uint4*)a.pools[blockIdx.y] + size_t(copy.x) * a.strip;
    uint4* slot = a.host + (size_t(copy.y) * gridDim.y + blockIdx.y) * a.strip;
    const uint4* from = a.to_host ? block : slot;
    uint4* to = a.to_host ? slot : block;
    for (int first = threadIdx.x; first < a.strip; first += LOADS * 256) {
        uint4 loaded[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (first + i * 256 < a.strip) loaded[i] = from[first + i * 256];
        }
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            if (first + i * 256 < a.strip) to[first + i * 256] = loaded[i];
        }
    }
}
