// The gate of the feed-forward (Shazeer 2020): output = gate / (1 + e^-gate) × up, both halves of a row side by side.

#include "common.cuh"

struct SiluMulArguments {
    const bf16* gate_up;  // [rows][2 × width]
    bf16* output;         // [rows][width]
    int width;            // a multiple of 8
    int rows;
};

__device__ __forceinline__ float gated(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

extern "C" __global__ void __launch_bounds__(256) silu_mul(const SiluMulArguments a) {
    let_next_begin();
    wait_for_previous();
    const int per_row = a.width / 8;
    const long long all = (long long)a.rows * per_row;
    for (long long index = blockIdx.x * 256LL + threadIdx.x; index < all; index += gridDim.x * 256LL) {
        const long long row = index / per_row;
        const int column = int(index % per_row);
        const uint4 gate = ((const uint4*)(a.gate_up + row * 2 * a.width))[column];
        const uint4 up = ((const uint4*)(a.gate_up + row * 2 * a.width + a.width))[column];
        auto both = [](u32 g, u32 u) {
            return pack(gated(low_float(g), low_float(u)), gated(high_float(g), high_float(u)));
        };
        ((uint4*)(a.output + row * a.width))[column] =
            make_uint4(both(gate.x, up.x), both(gate.y, up.y), both(gate.z, up.z), both(gate.w, up.w));
    }
}
