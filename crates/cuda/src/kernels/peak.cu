// Reads memory and does nothing with it: how fast the GPU can read at best.

#include "common.cuh"

struct PeakArguments {
    const uint4* values;
    u64 len;      // a multiple of 4 × 256 × the grid
    u32* target;  // written only if a sum has a value that it has not
};

extern "C" __global__ void __launch_bounds__(256) read_all(const PeakArguments a) {
    u32 sum = 0;
    const u64 threads = gridDim.x * 256ULL;
    for (u64 index = blockIdx.x * 256ULL + threadIdx.x; index < a.len; index += 4 * threads) {
        uint4 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint4* from = a.values + index + i * threads;
            asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w) : "l"(from));
        }
#pragma unroll
        for (int i = 0; i < 4; i++) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
    }
    if (sum == 0x9e3779b9u && a.len == 1) *a.target = sum;
}
