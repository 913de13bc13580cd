// What the sources of all kernels share. Needs no header of a toolkit.

typedef unsigned short bf16;           // the bits of a bfloat16
typedef unsigned int u32;
typedef unsigned long long u64;

// Lets the next kernel begin, and waits for the one before to be done with its writes (programmatic dependent launch).
// Without that launch attribute both do nothing.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ float low_float(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_float(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float to_float(bf16 value) { return __uint_as_float(u32(value) << 16); }

// Two floats rounded to nearest even, the first one in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
__device__ __forceinline__ bf16 to_bf16(float value) { return bf16(pack(value, 0.0f)); }

// Sums over a block of COUNT warps; every thread gets the sum. `scratch` holds COUNT floats and is free again after the
// next barrier.
template <int COUNT> __device__ __forceinline__ float block_sum(float value, float* scratch) {
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < COUNT; warp++) sum += scratch[warp];
    return sum;
}
