// Quantized weights, and what reads them.
//
// A matrix is cut into tiles of 16 outputs by steps of 64 inputs; each is a record, [tile][step], which holds the quanta
// of a lane side by side and in the order in which the instruction wants them:
//   quanta    [planes][32 lanes][2 halves of the tile][2 parts of the step], a word each: 8 quanta of 4 bits, the low
//             ones of pairs in bits 4 × pair, the high ones 16 bits above; or, in two planes, 4 signed bytes, those
//             of two pairs (0, 2 and 1, 3)
//   high bits for 5 bits [32] words, bit 4 × (2 × half + part) + pair, and the same 16 bits above; for 6 bits
//             [32][2 halves], 2 bits from bit 2 × (4 × part + pair) on, and the same 16 bits above
//   numbers   [8][2 halves][2 parts]: the scale, or two where 16 inputs share one, then the minimum if there are
//             minimums: in half precision, or signed bytes where they are nested
// Lane 4 × g + t has outputs g and g + 8 (the halves), and of each part of 32 inputs those from 8 × t on, or 4 from
// 4 × t and 4 from 16 + 4 × t on where 16 inputs share a scale. After the last record come, where numbers are nested,
// the outer scales and minimums in half precision, [tile][steps / 4][8][2 halves].
//
// Quanta become bfloat16 by putting them into the mantissa of 128: 128 + quantum, for less than 128, is exact. They are
// multiplied as such whole numbers, and the scale of 32 inputs, or 16, is applied to the sums in float32: so weights are
// not rounded at all. Minimums are multiplied with sums of the inputs, for which the matrix unit has time.
//
// Macros: BITS 4, 5, 6 or 8; SCALE_BLOCK 32 or 16; NESTED 0 or 1; ZERO_POINT: the quantum that stands for 0, or -1
// where there are minimums.

#define HAS_MINIMUM (ZERO_POINT < 0)
#define PLANES (BITS == 8 ? 2 : 1)
#define QUANTA_BYTES (PLANES * 512)
#define HIGH_WORDS (BITS == 5 ? 1 : BITS == 6 ? 2 : 0)
#define SCALES (32 / SCALE_BLOCK)
#define NUMBERS (SCALES + HAS_MINIMUM)
#define NUMBER_BYTES (NESTED ? 1 : 2)
// Of one output and the one 8 below, two parts each: 8 or 16 bytes.
#define NUMBER_WORDS (NUMBERS * NUMBER_BYTES)
#define RECORD_BYTES (QUANTA_BYTES + HIGH_WORDS * 128 + NUMBER_WORDS * 32)
#define OUTER_HALVES (NESTED ? 1 + HAS_MINIMUM : 0)
#define OUTER_BYTES (OUTER_HALVES * 32)
#define STEPS_PER_OUTER 4

struct QuantizedMatrix {
    const unsigned char* records;
    const unsigned char* outers;
    int steps;

    __device__ __forceinline__ QuantizedMatrix(const void* weights, int rows, int inputs)
        : records((const unsigned char*)weights), steps((inputs + 63) / 64) {
        outers = records + size_t((rows + 15) / 16) * steps * RECORD_BYTES;
    }
    __device__ __forceinline__ const unsigned char* record(int tile, int step) const {
        return records + (size_t(tile) * steps + step) * RECORD_BYTES;
    }
    __device__ __forceinline__ const unsigned char* outer(int tile, int step) const {
        const int outer_steps = (steps + STEPS_PER_OUTER - 1) / STEPS_PER_OUTER;
        return outers + (size_t(tile) * outer_steps + step / STEPS_PER_OUTER) * OUTER_BYTES;
    }
};

// What a lane has of a record.
struct LaneWeights {
    uint4 quanta[PLANES];                       // .x, .y, .z, .w: [half][part]
    __align__(16) u32 numbers[NUMBER_WORDS];    // [half][part][scales, minimum]
    __align__(8) u32 high[HIGH_WORDS + 1];      // one more, for none is no array
    __align__(8) u32 outer[OUTER_HALVES + 1];   // [half][scale, minimum]
};

__device__ __forceinline__ void read_words(u32* words, const unsigned char* from, int count) {
    if (count == 1) words[0] = *(const u32*)from;
    if (count == 2) *(uint2*)words = *(const uint2*)from;
    if (count == 4) *(uint4*)words = *(const uint4*)from;
}

__device__ __forceinline__ void read_lane(LaneWeights& w, const unsigned char* record, const unsigned char* outer,
                                          int lane) {
#pragma unroll
    for (int plane = 0; plane < PLANES; plane++) w.quanta[plane] = *(const uint4*)(record + plane * 512 + lane * 16);
    record += QUANTA_BYTES;
    read_words(w.high, record + lane * HIGH_WORDS * 4, HIGH_WORDS);
    record += HIGH_WORDS * 128;
    const int g = lane / 4;
    read_words(w.numbers, record + g * NUMBER_WORDS * 4, NUMBER_WORDS);
    read_words(w.outer, outer + g * OUTER_HALVES * 4, OUTER_HALVES);
}

__device__ __forceinline__ u32 word_of(const uint4& v, int index) {
    return index == 0 ? v.x : index == 1 ? v.y : index == 2 ? v.z : v.w;
}

// (a & mask) | bits, in one instruction.
__device__ __forceinline__ u32 masked_or(u32 a, u32 mask, u32 bits) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(mask), "r"(bits));
    return result;
}

// a + b for two pairs of bfloat16.
__device__ __forceinline__ u32 add_pairs(u32 a, u32 b) {
    u32 sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return sum;
}

// 8 quanta of a half and a part as pairs of bfloat16: less the zero point, or 128 more where there are minimums.
__device__ __forceinline__ void unpack(u32 (&pairs)[4], const LaneWeights& w, int half, int part) {
    const int word = 2 * half + part;
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
#if BITS == 8
        // Of a signed byte, 128 + its low 7 bits, and -128 or, with its highest bit in the mantissa, -256.
        const u32 bytes = word_of(w.quanta[pair / 2], word) >> (8 * (pair % 2));
        pairs[pair] = add_pairs(masked_or(bytes, 0x007f007fu, 0x43004300u), masked_or(bytes, 0x00800080u, 0xc300c300u));
#else
        u32 quanta = masked_or(word_of(w.quanta[0], word) >> (4 * pair), 0x000f000fu, 0x43004300u);
#if BITS == 5
        const int place = 4 * word + pair;
        const u32 high = place < 4 ? w.high[0] << (4 - place) : w.high[0] >> (place - 4);
        quanta = masked_or(high, 0x00100010u, quanta);
#elif BITS == 6
        const int place = 2 * (4 * part + pair);
        const u32 high = place < 4 ? w.high[half] << (4 - place) : w.high[half] >> (place - 4);
        quanta = masked_or(high, 0x00300030u, quanta);
#endif
#if HAS_MINIMUM
        pairs[pair] = quanta;
#else
        // -(128 + point), a whole number of 8 bits, as bfloat16 in both halves.
        pairs[pair] = add_pairs(quanta, 0xc300c300u | (ZERO_POINT * 0x00010001u));
#endif
#endif
    }
}

__device__ __forceinline__ float half_to_float(u32 words, int which) {
    float value;
    const unsigned short bits = which ? words >> 16 : words & 0xffff;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ float number(const LaneWeights& w, int half, int part, int which) {
    const int index = (2 * half + part) * NUMBERS + which;
#if NESTED
    // A byte in the mantissa of 2^23 is that float plus the byte, which takes no conversion. Its sign bit is turned
    // over, so that it counts from -128.
    const u32 bytes = w.numbers[index / 4] ^ 0x80808080u;
    const float inner = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7650 + index % 4)) - (8388608.0f + 128.0f);
    const int outer = half * OUTER_HALVES + which / SCALES;
    return inner * half_to_float(w.outer[outer / 2], outer % 2);
#else
    return half_to_float(w.numbers[index / 2], index % 2);
#endif
}

__device__ __forceinline__ float scale_of(const LaneWeights& w, int half, int part, int block) {
    return number(w, half, part, block);
}

// What a product of inputs with unpacked quanta lacks, for each input.
__device__ __forceinline__ float minimum_of(const LaneWeights& w, int half, int part, float scale) {
    return HAS_MINIMUM ? number(w, half, part, SCALES) - 128.0f * scale : 0.0f;
}

#ifdef ROW_TILES

// A lane's weights of one step.
struct Weights { LaneWeights tile[TILES]; };

#define STORED_BYTES (RECORD_BYTES + OUTER_BYTES)
#define SLOT_BYTES (TILES * STORED_BYTES)

// Where a lane reads.
struct Source {
    const QuantizedMatrix matrix;
    const int lane;
    const unsigned char* records[TILES];  // of the first step
    const unsigned char* outers[TILES];

    __device__ __forceinline__ Source(const FewRowsArguments& a, int lane)
        : matrix(a.weights, GATED ? 2 * a.outputs : a.outputs, a.inputs), lane(lane) {}

    __device__ __forceinline__ void open(const FewRowsArguments& a, int group) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            // A tile past the end is computed and dropped.
            const int last = (a.outputs + 15) / 16 - 1;
            const int index = min(GATED ? group : group * TILES + tile, last) + (GATED ? tile * (a.outputs / 16) : 0);
            records[tile] = matrix.record(index, 0);
            outers[tile] = matrix.outer(index, 0);
        }
    }

    __device__ __forceinline__ void copy(u32 slot, const FewRowsArguments&, int step, bool any) const {
        const bool inside = any && step < matrix.steps;
        const int record = step * RECORD_BYTES, outer = step / STEPS_PER_OUTER * OUTER_BYTES;
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int first = 0; first < STORED_BYTES; first += 512) {
                const int place = first + lane * 16;
                const bool in_record = place < RECORD_BYTES;
                const unsigned char* from =
                    in_record ? records[tile] + record + place : outers[tile] + outer + place - RECORD_BYTES;
                if (place < STORED_BYTES)
                    copy_or_zero(slot + tile * STORED_BYTES + place, inside ? from : matrix.records, inside);
            }
    }

    __device__ __forceinline__ void read(Weights& w, const unsigned char* slot) const {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const unsigned char* record = slot + tile * STORED_BYTES;
            read_lane(w.tile[tile], record, record + RECORD_BYTES, lane);
        }
    }

    // The inputs that go with a lane's weights from k on.
    __device__ __forceinline__ uint4 input(const bf16* row, int k, int t, int inputs) const {
        if (k + 32 > inputs) return make_uint4(0, 0, 0, 0);
        if (SCALE_BLOCK == 32) return *(const uint4*)(row + k + 8 * t);
        const uint2 low = *(const uint2*)(row + k + 4 * t), high = *(const uint2*)(row + k + 16 + 4 * t);
        return make_uint4(low.x, low.y, high.x, high.y);
    }
};

__device__ __forceinline__ void multiply(Sums& c, const Weights& w, const Inputs& inputs) {
#pragma unroll
    for (int part = 0; part < 2; part++) {
        float sums[ROW_TILES][4];  // of the inputs: [row 2 × t or 2 × t + 1, twice]
#if HAS_MINIMUM
#pragma unroll
        for (int rows = 0; rows < ROW_TILES; rows++) {
            const uint4 x = inputs.part[rows][part];
            const u32 ones = 0x3f803f80u;
            multiply_only(sums[rows], ones, ones, ones, ones, x.x, x.y);
            multiply_add(sums[rows], ones, ones, ones, ones, x.z, x.w);
        }
#endif
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const LaneWeights& lane = w.tile[tile];
            u32 low[4], high[4];
            unpack(low, lane, 0, part);
            unpack(high, lane, 1, part);
            float scales[2][SCALES], minimums[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int block = 0; block < SCALES; block++) scales[half][block] = scale_of(lane, half, part, block);
                minimums[half] = minimum_of(lane, half, part, scales[half][0]);
            }
#pragma unroll
            for (int rows = 0; rows < ROW_TILES; rows++) {
                const uint4 x = inputs.part[rows][part];
                float* target = c[tile][rows];
                float products[4];
                multiply_only(products, low[0], high[0], low[1], high[1], x.x, x.y);
#if SCALE_BLOCK == 16
#pragma unroll
                for (int i = 0; i < 4; i++) target[i] += scales[i / 2][0] * products[i];
                multiply_only(products, low[2], high[2], low[3], high[3], x.z, x.w);
#else
                multiply_add(products, low[2], high[2], low[3], high[3], x.z, x.w);
#endif
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    target[i] += scales[i / 2][SCALES - 1] * products[i];
                    if (HAS_MINIMUM) target[i] += minimums[i / 2] * sums[rows][i % 2];
                }
            }
        }
    }
}

#else

// 8 weights of a lane as floats; the second four are SECOND inputs after the first.
#define SECOND (SCALE_BLOCK == 16 ? 16 : 4)
__device__ __forceinline__ void dequantize(float (&values)[8], const LaneWeights& w, int half, int part) {
    u32 pairs[4];
    unpack(pairs, w, half, part);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float scale = scale_of(w, half, part, SCALES == 1 ? 0 : i / 4);
        const float quantum = i % 2 ? high_float(pairs[i / 2]) : low_float(pairs[i / 2]);
        values[i] = scale * quantum + minimum_of(w, half, part, scale);
    }
}
// The first of the inputs that a lane has of a part.
__device__ __forceinline__ int first_input(int part, int t) { return part * 32 + (SCALE_BLOCK == 16 ? 4 : 8) * t; }

#endif
