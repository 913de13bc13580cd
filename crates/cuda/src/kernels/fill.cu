// Random weights, for measuring without a checkpoint: values from -amplitude to amplitude, each a function of the seed
// and its index (SplitMix64's finaliser, Steele, Lea and Flood 2014).

#include "common.cuh"

struct FillArguments {
    bf16* values;
    u64 len;
    u64 seed;
    float amplitude;
};

extern "C" __global__ void __launch_bounds__(256) fill(const FillArguments a) {
    for (u64 index = blockIdx.x * 256ULL + threadIdx.x; index < a.len; index += gridDim.x * 256ULL) {
        u64 z = (index + a.seed * 0x9e3779b97f4a7c15ULL) * 0x9e3779b97f4a7c15ULL;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        z ^= z >> 31;
        const float unit = float(u32(z >> 40)) * (2.0f / 16777216.0f) - 1.0f;
        a.values[index] = to_bf16(unit * a.amplitude);
    }
}
