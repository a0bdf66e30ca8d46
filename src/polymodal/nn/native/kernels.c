/* Decoding on a CPU: few rows through large weights, limited by reading them.
 *
 *   pm_linear   y [rows, out] = x [rows, in] @ weight [out, in]^T (+ bias), weights float32, int8 or int4 with scales
 *   pm_blocks   x [batch * count, width] through all blocks of a pre-norm decoder (RMSNorm, rope, grouped heads, SwiGLU)
 *
 * Weights are read once, in the order they lie in memory, by one team of threads that stays together for all blocks.
 * A dot product is summed in one fixed order, so that a row's numbers do not depend on the rows beside it.
 * NaN and infinity pass through as in torch: nothing here is compiled with -ffast-math.
 */
#include "int4.h"

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

/* Rows that a product reads; `rounded` is filled where its weights are int4. */
typedef struct {
    const float *x;
    int64_t rows;
    Rounded rounded;
} Input;

static void outputs(const Linear *l, int64_t first, int64_t last, const Input *in, float *y, int64_t ys) {
    if (l->bits == 4) outputs4(l, first, last, &in->rounded, in->rows, y, ys);
    else if (l->bits == 8) outputs8(l, first, last, in->x, in->rows, y, ys);
    else outputs32(l, first, last, in->x, in->rows, y, ys);
}

/* Rows as an input of up to three weights [out, in], rounded into `space` (of rounded_size bytes) where one of them is int4. */
static Input input_of(const Linear *const *weights, int count, const float *x, int64_t rows, char *space) {
    Input in = {x, rows, {NULL, NULL, NULL}};
    for (int i = 0; i < count && !in.rounded.q; i++)
        if (weights[i]->bits == 4) in.rounded = round_rows(x, rows, weights[i]->in, space);
    return in;
}

static int64_t tiles(int64_t out) { return (out + TILE - 1) / TILE; }

/* Returns 0, or 1 where there is no memory; then nothing was written. */
int pm_linear(const Linear *l, const float *x, float *y, int64_t rows, int threads) {
    char *space = l->bits == 4 ? malloc(rounded_size(rows, l->in)) : NULL;
    if (l->bits == 4 && !space) return 1;
    const Input in = input_of(&l, 1, x, rows, space);
    (void)threads;
#pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t t = 0; t < tiles(l->out); t++) outputs(l, t * TILE, least(l->out, (t + 1) * TILE), &in, y, l->out);
    free(space);
    return 0;
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

#define FOR_TILES(count) _Pragma("omp for schedule(dynamic, 2)") for (int64_t t = 0; t < (count); t++)

/* The blocks in order.  Returns 0, or 1 where there is no memory; then nothing was changed. */
int pm_blocks(const Call *c, int threads) {
    const int64_t rows = c->batch * c->count, wide = c->heads * c->size, narrow = c->kv_heads * c->size;
    const int64_t total = c->held + c->count + LANES;
    float *shared = malloc(sizeof(float) * rows * (2 * wide + 2 * narrow + c->ffn + c->width));
    float *own = malloc(sizeof(float) * threads * (rows * (c->width + 2 * TILE) + total));
    const int64_t widest = c->ffn > wide ? (c->ffn > c->width ? c->ffn : c->width) : wide > c->width ? wide : c->width;
    const int64_t room = rounded_size(rows, widest);
    char *spaces = malloc(threads * room);
    if (!shared || !own || !spaces) {
        free(shared);
        free(own);
        free(spaces);
        return 1;
    }
    float *q = shared, *k = q + rows * wide, *v = k + rows * narrow, *heads = v + rows * narrow;
    float *hidden = heads + rows * wide, *added = hidden + rows * c->ffn;
#pragma omp parallel num_threads(threads)
    {
#ifdef _OPENMP
        const int thread = omp_get_thread_num();
#else
        const int thread = 0;
#endif
        float *mine = own + thread * (rows * (c->width + 2 * TILE) + total);
        char *space = spaces + thread * room;
        float *normed = mine, *gate = normed + rows * c->width, *up = gate + rows * TILE, *scores = up + rows * TILE;
        for (int64_t n = 0; n < c->depth; n++) {
            const Block *block = c->blocks + n;
            const int64_t tq = tiles(wide), tk = tiles(narrow);
            for (int64_t r = 0; r < rows; r++)
                norm(c->x + r * c->width, block->attn_norm, c->eps, c->width, normed + r * c->width);
            const Linear *const projections[] = {&block->q, &block->k, &block->v}, *const gates[] = {&block->gate, &block->up};
            const Linear *const o = &block->o, *const down = &block->down;
            Input in = input_of(projections, 3, normed, rows, space);
            FOR_TILES(tq + 2 * tk) {
                const Linear *l = t < tq ? &block->q : t < tq + tk ? &block->k : &block->v;
                float *y = t < tq ? q : t < tq + tk ? k : v;
                const int64_t at = TILE * (t < tq ? t : t < tq + tk ? t - tq : t - tq - tk);
                outputs(l, at, least(l->out, at + TILE), &in, y, l->out);
            }
            _Pragma("omp for schedule(dynamic, 1)") for (int64_t t = 0; t < c->batch * c->kv_heads; t++)
                head(c, n, t / c->kv_heads, t % c->kv_heads, q, k, v, scores, heads);
            in = input_of(&o, 1, heads, rows, space);
            FOR_TILES(tiles(c->width)) {
                const int64_t end = least(c->width, (t + 1) * TILE);
                outputs(o, t * TILE, end, &in, added, c->width);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = t * TILE; i < end; i++) c->x[r * c->width + i] += added[r * c->width + i];
            }
            for (int64_t r = 0; r < rows; r++)
                norm(c->x + r * c->width, block->mlp_norm, c->eps, c->width, normed + r * c->width);
            in = input_of(gates, 2, normed, rows, space);
            FOR_TILES(tiles(c->ffn)) {
                const int64_t first = t * TILE, end = least(c->ffn, first + TILE);
                outputs(&block->gate, first, end, &in, gate - first, TILE);
                outputs(&block->up, first, end, &in, up - first, TILE);
                for (int64_t r = 0; r < rows; r++) {
                    const vec g = load(gate + r * TILE);
                    vec h = g / (1.0f + exponential(-g)) * load(up + r * TILE);
                    memcpy(hidden + r * c->ffn + first, &h, sizeof(float) * (end - first));
                }
            }
            in = input_of(&down, 1, hidden, rows, space);
            FOR_TILES(tiles(c->width)) {
                const int64_t end = least(c->width, (t + 1) * TILE);
                outputs(down, t * TILE, end, &in, added, c->width);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = t * TILE; i < end; i++) c->x[r * c->width + i] += added[r * c->width + i];
            }
        }
    }
    free(shared);
    free(own);
    free(spaces);
    return 0;
}
