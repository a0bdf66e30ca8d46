/* int4 weights by inputs that are rounded to eight bits, group by group: sums of whole numbers, then two scales.
 *
 * weight [out / 16, in / 32, 4, 64]: of 16 outputs and 32 inputs, byte 4 r + b of part j holds inputs 4 j + b (low half) and
 * 16 + 4 j + b (high half) of output r, as 0 to 15 for -8 to 7; scale bfloat16 or float32 [out / 16, in / 32, 16].  nn/int4.py packs them.
 * Whole numbers add up to the same in any order: what a processor lacks changes the speed and not the result.
 */
#include "products.h"

#define GROUP 32

/* Of rows [rows, in]: x = q * scale, and -8 times the sum of each group's q, for weights that count from 0. */
typedef struct {
    const int8_t *q;
    const float *scale;
    const int32_t *offset;
} Rounded;

static int64_t rounded_size(int64_t rows, int64_t in) { return rows * in + rows * (in / GROUP + 1) * 8 + 128; }

/* q: as integers that fit; a group with a value that is no number gets a scale that is none. */
static Rounded round_rows(const float *x, int64_t rows, int64_t in, char *space) {
    const int64_t groups = rows * in / GROUP;
    int32_t *offset = (int32_t *)space;
    float *scale = (float *)(offset + groups);
    int8_t *q = (int8_t *)(scale + groups);
    for (int64_t g = 0; g < groups; g++) {
        const float *from = x + g * GROUP;
        float largest = 0, total = 0;
        for (int i = 0; i < GROUP; i++) {
            const float size = fabsf(from[i]);
            largest = size > largest ? size : largest;
            total += from[i];
        }
        const float unit = largest / 127.0f, inverse = unit > 0 ? 1.0f / unit : 0.0f;
        int32_t s = 0;
        for (int i = 0; i < GROUP; i++) {
            const float v = from[i] * inverse;
            const int32_t whole = v > -128.0f && v < 128.0f ? (int32_t)(v + (v < 0 ? -0.5f : 0.5f)) : 0;
            q[g * GROUP + i] = (int8_t)whole;
            s += whole;
        }
        offset[g] = -8 * s;
        scale[g] = unit + (isfinite(total) ? 0.0f : NAN);
    }
    return (Rounded){q, scale, offset};
}

/* acc of each of 16 outputs += the products of one group, whole numbers. */
INLINE ivec group4(const uint8_t *w, const int8_t *q, int32_t offset) {
    int32_t x[8];
    memcpy(x, q, sizeof x);
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a = _mm512_set1_epi32(offset), b = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const __m512i v = _mm512_loadu_si512(w + 64 * j);
        a = _mm512_dpbusd_epi32(a, _mm512_and_si512(v, low), _mm512_set1_epi32(x[j]));
        b = _mm512_dpbusd_epi32(b, _mm512_and_si512(_mm512_srli_epi16(v, 4), low), _mm512_set1_epi32(x[4 + j]));
    }
    return (ivec)_mm512_add_epi32(a, b);
#elif defined(__AVX2__)
    /* Eight sums of two products of at most 15 * 127 stay below 2^15. */
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    union { ivec all; __m256i half[2]; } s;
    for (int h = 0; h < 2; h++) {
        __m256i a = _mm256_setzero_si256();
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(w + 64 * j + 32 * h));
            const __m256i first = _mm256_and_si256(v, low), second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
            a = _mm256_add_epi16(a, _mm256_maddubs_epi16(first, _mm256_set1_epi32(x[j])));
            a = _mm256_add_epi16(a, _mm256_maddubs_epi16(second, _mm256_set1_epi32(x[4 + j])));
        }
        s.half[h] = _mm256_add_epi32(_mm256_set1_epi32(offset), _mm256_madd_epi16(a, ones));
    }
    return s.all;
#else
    ivec s = (ivec){} + offset;
    for (int j = 0; j < 4; j++)
        for (int r = 0; r < 16; r++)
            for (int b = 0; b < 4; b++) {
                const int v = w[64 * j + 4 * r + b];
                s[r] += (v & 15) * q[4 * j + b] + (v >> 4) * q[16 + 4 * j + b];
            }
    return s;
#endif
}

/* 16 scales from the n-th on. */
INLINE vec scales4(const Linear *l, int64_t n) {
    if (!l->scale_is_bfloat16) return load((const float *)l->scale + n);
    const uint16_t *p = (const uint16_t *)l->scale + n;
#if defined(__AVX512F__)
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
#else
    ivec v;
    for (int r = 0; r < 16; r++) v[r] = (int32_t)((uint32_t)p[r] << 16);
    return (vec)v;
#endif
}

/* 16 outputs of ROWS rows. */
INLINE void block4(const Linear *l, int64_t block, const Rounded *in, int64_t row, float *y, int64_t ys, int ROWS) {
    const int64_t groups = l->in / GROUP;
    const uint8_t *w = (const uint8_t *)l->weight + block * groups * 256;
    vec acc[4] = {{}, {}, {}, {}};
    for (int64_t g = 0; g < groups; g++) {
        for (int j = 0; j < 4; j++) __builtin_prefetch(w + g * 256 + j * 64 + AHEAD8);
        const vec each = scales4(l, (block * groups + g) * 16);
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = (row + r) * groups + g;
            const ivec s = group4(w + g * 256, in->q + at * GROUP, in->offset[at]);
            acc[r] += __builtin_convertvector(s, vec) * (each * in->scale[at]);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        if (l->bias) acc[r] += load(l->bias + block * 16);
        store(y + (row + r) * ys + block * 16, acc[r]);
    }
}

/* Outputs [first, last), multiples of 16, of all rows. */
static void outputs4(const Linear *l, int64_t first, int64_t last, const Rounded *in, int64_t rows, float *y, int64_t ys) {
    for (int64_t block = first / 16; block < last / 16; block++) {
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) block4(l, block, in, r, y, ys, 4);
        for (; r < rows; r++) block4(l, block, in, r, y, ys, 1);
    }
}
