// Weights in bfloat16, row by row, for few_rows.cu. A lane copies 16 bytes at a time, those that the instruction wants in
// its registers, and reads what it copied itself.

#define SLOT_BYTES (TILES * 2048)

// A lane's weights of one step: [tile][row g or g + 8][first or second half].
struct Weights { uint4 part[TILES][2][2]; };

// Where a lane reads.
struct Source {
    const int lane, g, t;
    const bf16* row_of[TILES][2];

    __device__ __forceinline__ Source(const FewRowsArguments&, int lane) : lane(lane), g(lane / 4), t(lane % 4) {}

    __device__ __forceinline__ void open(const FewRowsArguments& a, int group) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                // Rows past the end are computed and dropped.
                const int first = (GATED ? group : group * TILES + tile) * 16;
                const int output = min(first + g + 8 * half, a.outputs - 1) + (GATED ? tile * a.outputs : 0);
                row_of[tile][half] = (const bf16*)a.weights + size_t(output) * a.inputs + 8 * t;
            }
    }

    __device__ __forceinline__ void copy(u32 slot, const FewRowsArguments& a, int step, bool any) const {
#pragma unroll
        for (int part = 0; part < 2; part++) {
            const int k = step * STEP + part * 32;
            const bool inside = any && k + 8 * t + 8 <= a.inputs;
#pragma unroll
            for (int tile = 0; tile < TILES; tile++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const u32 place = ((tile * 2 + half) * 2 + part) * 512 + lane * 16;
                    copy_or_zero(slot + place, inside ? row_of[tile][half] + k : a.weights, inside);
                }
        }
    }

    __device__ __forceinline__ void read(Weights& w, const unsigned char* slot) const {
#pragma unroll
        for (int index = 0; index < TILES * 4; index++)
            w.part[index / 4][index / 2 % 2][index % 2] = *(const uint4*)(slot + index * 512 + lane * 16);
    }

    // The inputs that go with a lane's weights from k on.
    __device__ __forceinline__ uint4 input(const bf16* row, int k, int t, int inputs) const {
        return k + 8 * t + 8 <= inputs ? *(const uint4*)(row + k + 8 * t) : make_uint4(0, 0, 0, 0);
    }
};

__device__ __forceinline__ void multiply(Sums& c, const Weights& w, const Inputs& inputs) {
#pragma unroll
    for (int part = 0; part < 2; part++)
#pragma unroll
        for (int rows = 0; rows < ROW_TILES; rows++) {
            const uint4 x = inputs.part[rows][part];
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint4 low = w.part[tile][0][part], high = w.part[tile][1][part];
                multiply_add(c[tile][rows], low.x, high.x, low.y, high.y, x.x, x.y);
                multiply_add(c[tile][rows], low.z, high.z, low.w, high.w, x.z, x.w);
            }
        }
}
