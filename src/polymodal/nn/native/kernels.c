/* Decoding on a CPU: few rows through large weights, limited by reading them.
 *
 *   pm_linear   y [rows, out] = x [rows, in] @ weight [out, in]^T (+ bias), weights float32 or int8 with a scale a row
 *   pm_blocks   x [batch * count, width] through all blocks of a pre-norm decoder (RMSNorm, rope, grouped heads, SwiGLU)
 *
 * Weights are read once, in the order they lie in memory, by one team of threads that stays together for all blocks.
 * A dot product is summed in one fixed order, so that a row's numbers do not depend on the rows beside it.
 * NaN and infinity pass through as in torch: nothing here is compiled with -ffast-math.
 */
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

/* weight [out, in]; scale: NULL for float32, else [out] and the weight is int8; bias: NULL or float32 [out]. */
typedef struct {
    const void *weight, *scale;
    const float *bias;
    int64_t out, in, scale_is_bfloat16;
} Linear;

typedef struct {
    Linear q, k, v, o, gate, up, down;
    const float *attn_norm, *mlp_norm;
} Block;

/* cos, sin [batch | 1, count, rotary], `rope_stride` floats between rows (0: one for all). keys, values: one pointer a
 * block to [batch, kv_heads, capacity, size]; `held` columns are filled, the new ones are written behind them.
 * allow: bool [batch | 1, count, held + count] or NULL, `allow_stride` bytes between rows. */
typedef struct {
    const Block *blocks;
    int64_t depth, width, heads, kv_heads, size, ffn, rotary, interleaved;
    float eps, scale;
    int64_t batch, count, held, row_stride, head_stride, rope_stride, allow_stride;
    const float *cos, *sin;
    float *const *keys, *const *values;
    const uint8_t *allow;
    float *x;
} Call;

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

INLINE vec exponential(vec x) {
    /* 2^n * e^r with |r| <= ln 2 / 2 and a polynomial of degree 6: within 2e-7 of the true value; NaN stays NaN. */
    const vec low = (vec){} - 87.3f, high = (vec){} + 88.7f;
    x = pick(x < low, low, x);
    x = pick(x > high, high, x);
    vec shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = r * 1.38888889e-3f + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (vec)(((ivec)shifted + (127 - 0x4B400000)) << 23);
}

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

/* Outputs [first, last) of all rows; y [rows, ys] is indexed by the output. */
static void outputs(const Linear *l, int64_t first, int64_t last, const float *x, int64_t rows, float *y, int64_t ys) {
    if (l->scale) outputs8(l, first, last, x, rows, y, ys);
    else outputs32(l, first, last, x, rows, y, ys);
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void pm_linear(const Linear *l, const float *x, float *y, int64_t rows, int threads) {
    const int64_t tiles = (l->out + TILE - 1) / TILE;
    (void)threads;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles; t++) outputs(l, t * TILE, least(l->out, (t + 1) * TILE), x, rows, y, l->out);
}

static void norm(const float *x, const float *weight, float eps, int64_t width, float *y) {
    vec a = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) a += load(x + i) * load(x + i);
    float s = sum(a);
    for (; i < width; i++) s += x[i] * x[i];
    const float factor = 1.0f / sqrtf(s / (float)width + eps);
    for (i = 0; i + LANES <= width; i += LANES) store(y + i, load(x + i) * factor * load(weight + i));
    for (; i < width; i++) y[i] = x[i] * factor * weight[i];
}

/* The leading `rotary` of `size` numbers of one head, in place; sin holds the sign. */
static void rotate(float *x, const float *cos, const float *sin, int64_t rotary, int64_t interleaved) {
    const int64_t half = rotary / 2;
    for (int64_t i = 0; i < half; i++) {
        const int64_t a = interleaved ? 2 * i : i, b = interleaved ? 2 * i + 1 : i + half;
        const float left = x[a], right = x[b];
        x[a] = left * cos[a] + right * sin[a];
        x[b] = right * cos[b] + left * sin[b];
    }
}

INLINE float dot(const float *a, const float *b, int64_t size) {
    vec s = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) s += load(a + i) * load(b + i);
    float total = sum(s);
    for (; i < size; i++) total += a[i] * b[i];
    return total;
}

/* One query over `total` columns, of which those not allowed are left out; a query that sees nothing gets zeros. */
static void attend(const float *q, const float *keys, const float *values, const uint8_t *allow, int64_t total,
                   int64_t size, float scale, float *scores, float *out) {
    float largest = -INFINITY;
    for (int64_t j = 0; j < total; j++) {
        const float s = allow && !allow[j] ? -INFINITY : dot(q, keys + j * size, size) * scale;
        scores[j] = s;
        /* NaN is kept: it must reach the answer, where it is reported. */
        if (!(s <= largest)) largest = s;
    }
    memset(out, 0, sizeof(float) * size);
    if (largest == -INFINITY) return;
    for (int64_t j = total; j % LANES; j++) scores[j] = -INFINITY;
    vec a = {};
    for (int64_t j = 0; j < total; j += LANES) {
        const vec s = load(scores + j);
        vec p = exponential(s - largest);
        p = pick(s == -INFINITY, (vec){}, p);
        store(scores + j, p);
        a += p;
    }
    const float share = 1.0f / sum(a);
    int64_t i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES) {
        vec b[4] = {{}, {}, {}, {}};
        for (int64_t j = 0; j < total; j++) {
            if (scores[j] == 0) continue;
            for (int u = 0; u < 4; u++) b[u] += scores[j] * load(values + j * size + i + u * LANES);
        }
        for (int u = 0; u < 4; u++) store(out + i + u * LANES, b[u] * share);
    }
    for (; i < size; i++) {
        float s = 0;
        for (int64_t j = 0; j < total; j++) if (scores[j] != 0) s += scores[j] * values[j * size + i];
        out[i] = s * share;
    }
}

/* Head `kv` of batch row `b`: rope of its keys and queries, new columns into the cache, attention of its queries. */
static void head(const Call *c, int64_t block, int64_t b, int64_t kv, float *q, float *k, const float *v, float *scores,
                 float *out) {
    const int64_t groups = c->heads / c->kv_heads, wide = c->heads * c->size, narrow = c->kv_heads * c->size;
    float *keys = c->keys[block] + b * c->row_stride + kv * c->head_stride;
    float *values = c->values[block] + b * c->row_stride + kv * c->head_stride;
    for (int64_t t = 0; t < c->count; t++) {
        const int64_t row = b * c->count + t;
        const float *cos = c->cos + b * c->rope_stride + t * c->rotary, *sin = c->sin + b * c->rope_stride + t * c->rotary;
        float *key = k + row * narrow + kv * c->size;
        rotate(key, cos, sin, c->rotary, c->interleaved);
        memcpy(keys + (c->held + t) * c->size, key, sizeof(float) * c->size);
        memcpy(values + (c->held + t) * c->size, v + row * narrow + kv * c->size, sizeof(float) * c->size);
        const uint8_t *allow = c->allow ? c->allow + b * c->allow_stride + t * (c->held + c->count) : NULL;
        for (int64_t g = 0; g < groups; g++) {
            const int64_t at = row * wide + (kv * groups + g) * c->size;
            rotate(q + at, cos, sin, c->rotary, c->interleaved);
            attend(q + at, keys, values, allow, c->held + t + 1, c->size, c->scale, scores, out + at);
        }
    }
}

/* One piece of a product over several weights that read the same rows; `add` adds to y instead of writing it. */
#define FOR_TILES(count) _Pragma("omp for schedule(dynamic, 2)") for (int64_t t = 0; t < (count); t++)

static int64_t tiles(int64_t out) { return (out + TILE - 1) / TILE; }

/* The blocks in order.  Returns 0, or 1 where there is no memory; then nothing was changed. */
int pm_blocks(const Call *c, int threads) {
    const int64_t rows = c->batch * c->count, wide = c->heads * c->size, narrow = c->kv_heads * c->size;
    const int64_t total = c->held + c->count + LANES;
    float *shared = malloc(sizeof(float) * rows * (2 * wide + 2 * narrow + c->ffn + c->width));
    float *own = malloc(sizeof(float) * threads * (rows * (c->width + 2 * TILE) + total));
    if (!shared || !own) {
        free(shared);
        free(own);
        return 1;
    }
    float *q = shared, *k = q + rows * wide, *v = k + rows * narrow, *heads = v + rows * narrow;
    float *hidden = heads + rows * wide, *added = hidden + rows * c->ffn;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        float *mine = own + omp_get_thread_num() * (rows * (c->width + 2 * TILE) + total);
#else
        float *mine = own;
#endif
        float *normed = mine, *gate = normed + rows * c->width, *up = gate + rows * TILE, *scores = up + rows * TILE;
        for (int64_t n = 0; n < c->depth; n++) {
            const Block *block = c->blocks + n;
            const int64_t tq = tiles(wide), tk = tiles(narrow);
            for (int64_t r = 0; r < rows; r++)
                norm(c->x + r * c->width, block->attn_norm, c->eps, c->width, normed + r * c->width);
            FOR_TILES(tq + 2 * tk) {
                const Linear *l = t < tq ? &block->q : t < tq + tk ? &block->k : &block->v;
                float *y = t < tq ? q : t < tq + tk ? k : v;
                const int64_t at = TILE * (t < tq ? t : t < tq + tk ? t - tq : t - tq - tk);
                outputs(l, at, least(l->out, at + TILE), normed, rows, y, l->out);
            }
            _Pragma("omp for schedule(dynamic, 1)") for (int64_t t = 0; t < c->batch * c->kv_heads; t++)
                head(c, n, t / c->kv_heads, t % c->kv_heads, q, k, v, scores, heads);
            FOR_TILES(tiles(c->width)) {
                const int64_t end = least(c->width, (t + 1) * TILE);
                outputs(&block->o, t * TILE, end, heads, rows, added, c->width);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = t * TILE; i < end; i++) c->x[r * c->width + i] += added[r * c->width + i];
            }
            for (int64_t r = 0; r < rows; r++)
                norm(c->x + r * c->width, block->mlp_norm, c->eps, c->width, normed + r * c->width);
            FOR_TILES(tiles(c->ffn)) {
                const int64_t first = t * TILE, end = least(c->ffn, first + TILE);
                outputs(&block->gate, first, end, normed, rows, gate - first, TILE);
                outputs(&block->up, first, end, normed, rows, up - first, TILE);
                for (int64_t r = 0; r < rows; r++) {
                    const vec g = load(gate + r * TILE);
                    vec h = g / (1.0f + exponential(-g)) * load(up + r * TILE);
                    memcpy(hidden + r * c->ffn + first, &h, sizeof(float) * (end - first));
                }
            }
            FOR_TILES(tiles(c->width)) {
                const int64_t end = least(c->width, (t + 1) * TILE);
                outputs(&block->down, t * TILE, end, hidden, rows, added, c->width);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = t * TILE; i < end; i++) c->x[r * c->width + i] += added[r * c->width + i];
            }
        }
    }
    free(shared);
    free(own);
    return 0;
}
