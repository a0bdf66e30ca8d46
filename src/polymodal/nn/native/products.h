/* Products of few rows with float32 and int8 weights: what kernels.c is made of. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 16
#define AHEAD 8192   /* bytes by which float32 weights are fetched ahead */
#define AHEAD8 4096  /* the same of int8 weights */
#define TILE 16      /* outputs that one thread takes at a time */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(64)));
typedef float vec_any __attribute__((vector_size(64), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(64)));

/* weight [out, in], float32, or int8 with scale [out]; bits 4: see int4.h.  bias: NULL or float32 [out]. */
typedef struct {
    const void *weight, *scale;
    const float *bias;
    int64_t out, in, scale_is_bfloat16, bits;
} Linear;

INLINE vec load(const float *p) { return *(const vec_any *)p; }
INLINE void store(float *p, vec v) { *(vec_any *)p = v; }

INLINE vec load8(const int8_t *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    union { vec all; __m256 half[2]; } v;
    v.half[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
    v.half[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(p + 8))));
    return v.all;
#else
    vec v;
    for (int i = 0; i < LANES; i++) v[i] = (float)p[i];
    return v;
#endif
}

INLINE float sum(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    float s[LANES];
    store(s, v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) s[i] += s[i + half];
    return s[0];
}

INLINE vec pick(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }

INLINE float scale_of(const Linear *l, int64_t o) {
    if (!l->scale_is_bfloat16) return ((const float *)l->scale)[o];
    union { uint32_t i; float f; } u = {(uint32_t)((const uint16_t *)l->scale)[o] << 16};
    return u.f;
}

/* The sums of four vectors; each is added up in the same order wherever it stands. */
INLINE void sum4(const vec *v, float *s) {
#if defined(__AVX512F__)
    __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
    __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_castps512_ps256(_mm512_shuffle_f32x4(all, all, 0x4E)));
    _mm_storeu_ps(s, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    for (int i = 0; i < 4; i++) s[i] = sum(v[i]);
#endif
}

/* OUTS weights by ROWS inputs, each product in CHAINS sums; the constants (at most 16 sums) unroll all into registers. */
INLINE void dots(const Linear *l, int64_t first, const float *x, float *y, int64_t ys, int is8, int OUTS, int ROWS, int CHAINS) {
    const int64_t in = l->in, most = in / LANES * LANES, whole = in / (LANES * CHAINS) * (LANES * CHAINS);
    const float *wf = (const float *)l->weight + first * in;
    const int8_t *wi = (const int8_t *)l->weight + first * in;
    vec a[16], totals[16];
    float s[16];
    for (int n = 0; n < 16; n++) a[n] = totals[n] = (vec){};
#define W(o, i) (is8 ? load8(wi + (o) * in + (i)) : load(wf + (o) * in + (i)))
    int64_t i = 0;
#pragma GCC unroll 1
    for (; i < whole; i += LANES * CHAINS) {
#pragma GCC unroll 4
        for (int u = 0; u < CHAINS; u++) {
            vec row[8];
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) row[r] = load(x + r * in + i + u * LANES);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) {
                const vec w = W(o, i + u * LANES);
                if (is8) __builtin_prefetch(wi + o * in + i + u * LANES + AHEAD8);
                else __builtin_prefetch((const char *)(wf + o * in + i + u * LANES) + AHEAD);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) a[(o * ROWS + r) * CHAINS + u] += w * row[r];
            }
        }
    }
    for (; i < most; i += LANES)
        for (int o = 0; o < OUTS; o++)
            for (int r = 0; r < ROWS; r++) a[(o * ROWS + r) * CHAINS] += W(o, i) * load(x + r * in + i);
    for (int n = 0; n < OUTS * ROWS; n++) {
        const vec *c = a + n * CHAINS;
        totals[n] = CHAINS == 4 ? (c[0] + c[1]) + (c[2] + c[3]) : c[0];
    }
#pragma GCC unroll 4
    for (int n = 0; n < OUTS * ROWS; n += 4) sum4(totals + n, s + n);
    for (int o = 0; o < OUTS; o++)
        for (int r = 0; r < ROWS; r++) {
            float d = s[o * ROWS + r];
            for (int64_t j = most; j < in; j++) d += (is8 ? (float)wi[o * in + j] : wf[o * in + j]) * x[r * in + j];
            if (is8) d *= scale_of(l, first + o);
            if (l->bias) d += l->bias[first + o];
            y[r * ys + first + o] = d;
        }
#undef W
}

/* float32: the weights as one stream far ahead of its use, which memory serves best, each for four rows at once. */
static void outputs32(const Linear *l, int64_t o, int64_t last, const float *x, int64_t rows, float *y, int64_t ys) {
    for (; o < last; o++) {
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) dots(l, o, x + r * l->in, y + r * ys, ys, 0, 1, 4, 4);
        for (; r < rows; r++) dots(l, o, x + r * l->in, y + r * ys, ys, 0, 1, 1, 4);
    }
}

/* int8: limited by making floats of the weights; several of them, or each for many rows. */
INLINE void stripe8(const Linear *l, int64_t o, const float *x, int64_t rows, float *y, int64_t ys, int OUTS, int WIDE) {
    int64_t r = 0;
    if (WIDE == 8) for (; r + 8 <= rows; r += 8) dots(l, o, x + r * l->in, y + r * ys, ys, 1, OUTS, 8, 1);
    for (; r + 4 <= rows; r += 4) dots(l, o, x + r * l->in, y + r * ys, ys, 1, OUTS, 4, 1);
    for (; r < rows; r++) dots(l, o, x + r * l->in, y + r * ys, ys, 1, OUTS, 1, 1);
}

static void outputs8(const Linear *l, int64_t o, int64_t last, const float *x, int64_t rows, float *y, int64_t ys) {
    if (rows >= 8) for (; o + 2 <= last; o += 2) stripe8(l, o, x, rows, y, ys, 2, 8);
    else for (; o + 4 <= last; o += 4) stripe8(l, o, x, rows, y, ys, 4, 4);
    for (; o < last; o++) stripe8(l, o, x, rows, y, ys, 1, 4);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
