/* Multi-head self-attention of short sequences on CPUs, in float or (with -DBF16) in bfloat16.
 *
 * One head of one image takes a few kilobytes: its products and its softmax stay in the L1 and L2
 * caches in both passes, and query, key and value are read where the projection wrote them.
 *
 * Layouts (row-major):
 *   qkv, dqkv  (batch, n, 3, heads, d)
 *   out, dout  (batch, n, heads, d)
 *   p          (batch, heads, n, np): softmax(scale * q k^T), np = n rounded up to a multiple of 16,
 *              zeros after n
 *
 * scale must be positive. A unit is 32 bits: one float or two bf16. d, the size of a head, must be a
 * multiple of 16 units. Products run over units; sums and the softmax are in float. Vectors are as wide
 * as the processor's registers: compilers keep wider ones in memory.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t units __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define LOAD(type, address) (*(const type *)(address))
#define STORE(type, address, value) (*(type *)(address) = (value))

#ifdef BF16
#define PER_UNIT 2
typedef uint16_t number;
typedef uint16_t numbers __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

INLINE units widen(const number *x) { return __builtin_convertvector(LOAD(numbers, x), units); }
INLINE floats load(const number *x) { return (floats)(widen(x) << 16); }

INLINE void store(number *x, floats values) {
#ifdef __AVX512BF16__
    STORE(numbers, x, (numbers)_mm512_cvtneps_pbh((__m512)values));
#else
    units bits = (units)values, nan = (units)(values != values);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) | (nan & 0x7fffffff); /* to nearest, ties to even */
    STORE(numbers, x, __builtin_convertvector(bits >> 16, numbers));
#endif
}

/* sum + the products of the numbers in each unit */
INLINE floats dot(floats sum, uint32_t a, units b) {
#ifdef __AVX512BF16__
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#else
    union { uint32_t bits; float value; } low = {a << 16}, high = {a & 0xffff0000};
    return sum + low.value * (floats)(b << 16) + high.value * (floats)(b & 0xffff0000);
#endif
}

#else
#define PER_UNIT 1
typedef float number;

INLINE floats load(const number *x) { return LOAD(floats, x); }
INLINE void store(number *x, floats values) { STORE(floats, x, values); }

INLINE floats dot(floats sum, uint32_t a, units b) {
    union { uint32_t bits; float value; } left = {a};
    return sum + left.value * (floats)b; /* contracted to one fused multiply-add */
}
#endif

INLINE floats select_lanes(ints where, floats x, floats otherwise) {
    return (floats)((where & (ints)x) | (~where & (ints)otherwise));
}

/* A mask of the first `count` lanes. */
INLINE ints lanes_below(int count) {
#if LANES == 16
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
    const ints lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const ints lane = {0, 1, 2, 3};
#endif
    return lane < count;
}

/* exp(x) for x <= 0, relative error below 1e-6 */
INLINE floats exp_lanes(floats x) {
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const floats lowest = (floats){0} - 87.0f, given = x;
    x = select_lanes(x < lowest, lowest, x);
    floats shifted = x * 1.44269504f + shift, whole = shifted - shift;
    floats f = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    floats y = 1.3981999507e-3f + 1.9875691500e-4f * f;
    y = 8.3334519073e-3f + y * f;
    y = 4.1665795894e-2f + y * f;
    y = 1.6666665459e-1f + y * f;
    y = 5.0000001201e-1f + y * f;
    y = (f + 1.0f) + y * (f * f);
    y = (floats)((ints)y + ((ints)shifted << 23)); /* times 2^whole */
    return select_lanes(given == given, y, given); /* NaN stays NaN */
}

INLINE float sum_lanes(floats x) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
#endif
}

INLINE float max_lanes(floats x) {
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)x);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] = x[i + half] > x[i] ? x[i + half] : x[i];
    return x[0];
#endif
}

/* Cache lines of the next head, prefetched one by one during the products of this one: the rows of a
 * head are too far apart for the hardware prefetcher. */
typedef struct {
    const char *base;
    const int32_t *offsets;
    int next, count;
} lines;

INLINE void fetch(lines *ahead) {
    if (ahead->next < ahead->count) __builtin_prefetch(ahead->base + ahead->offsets[ahead->next++]);
}

static void fetch_rest(lines *ahead) {
    while (ahead->next < ahead->count) fetch(ahead);
}

/* Byte offsets of the cache lines of n rows of `parts` heads; a row's heads are `part` numbers apart. */
static int line_offsets(int n, long row, int parts, long part, int d, int32_t *offsets) {
    int count = 0;
    for (int i = 0; i < n; i++)
        for (int p = 0; p < parts; p++)
            for (int line = 0; line < (int)sizeof(number) * d; line += 64)
                offsets[count++] = (int32_t)(sizeof(number) * (i * row + p * part)) + line;
    return count;
}

/* A tile of rows x (LANES * vectors) of C = A B over units.
 * A: the unit of row m and step k is a[m * am + k * ak].
 * B: the units of step k start at b + k * ldb.
 * C: stored as float (c32, stride ldc) or as numbers (c, stride ldc). */
INLINE void tile(const int rows, const int vectors, const int steps, const uint32_t *a, long am,
                 long ak, const uint32_t *b, long ldb, float *c32, number *c, long ldc, lines *ahead) {
    floats sum[8][4];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (floats){0};
    for (int k = 0; k < steps; k++) {
        units right[4];
        fetch(ahead);
        UNROLL for (int v = 0; v < vectors; v++) right[v] = LOAD(units, b + k * ldb + LANES * v);
        UNROLL for (int m = 0; m < rows; m++) {
            uint32_t left = a[m * am + k * ak];
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = dot(sum[m][v], left, right[v]);
        }
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) {
            if (c32)
                STORE(floats, c32 + m * ldc + LANES * v, sum[m][v]);
            else
                store(c + m * ldc + LANES * v, sum[m][v]);
        }
}

#define TILE(R, V) tile(R, V, steps, a + m * am, am, ak, b + j, ldb, \
                        c32 ? c32 + m * ldc + j : 0, c ? c + m * ldc + j : 0, ldc, ahead)
#define ROWS(R, V)                                    \
    {                                                 \
        int m = 0;                                    \
        for (; m + R <= rows; m += R) TILE(R, V);     \
        if (R > 4 && m + 4 <= rows) { TILE(4, V); m += 4; } \
        if (m + 2 <= rows) { TILE(2, V); m += 2; }    \
        if (m < rows) TILE(1, V);                     \
    }

/* C (rows x columns) = A B; columns must be a multiple of 16. */
static void multiply(int rows, int columns, int steps, const uint32_t *a, long am, long ak,
                     const uint32_t *b, long ldb, float *c32, number *c, long ldc, lines *ahead) {
#ifdef __AVX512F__ /* 32 registers of 16 lanes: up to 24 sums */
    for (int j = 0; j < columns; j += 64) {
        switch (columns - j) {
            default: ROWS(6, 4) break;
            case 48: ROWS(8, 3) break;
            case 32: ROWS(8, 2) break;
            case 16: ROWS(8, 1) break;
        }
    }
#elif defined(__AVX__) /* 16 registers of 8 lanes: 12 sums */
    for (int j = 0; j < columns; j += 16) ROWS(6, 2)
#elif defined(__aarch64__) /* 32 registers of 4 lanes: up to 24 sums */
    for (int j = 0; j < columns; j += 16) ROWS(6, 4)
#else /* 16 registers of 4 lanes: 12 sums */
    for (int j = 0; j < columns; j += 16) ROWS(3, 4)
#endif
}

/* 16 x 16 transpose of units; rows from `rows` on are zeros. */
INLINE void transpose16(const uint32_t *x, long ldx, int rows, uint32_t *y, long ldy) {
#ifdef __AVX512F__
    __m512i r[16], t[16];
    UNROLL for (int i = 0; i < 16; i++)
        r[i] = i < rows ? _mm512_loadu_si512(x + i * ldx) : _mm512_setzero_si512();
    UNROLL for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 16; i += 8)
        UNROLL for (int j = 0; j < 4; j++) {
            t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0x88);
            t[i + j + 4] = _mm512_shuffle_i32x4(r[i + j], r[i + j + 4], 0xdd);
        }
    UNROLL for (int j = 0; j < 8; j++) {
        __m512i low = _mm512_shuffle_i32x4(t[j], t[j + 8], 0x88);
        __m512i high = _mm512_shuffle_i32x4(t[j], t[j + 8], 0xdd);
        _mm512_storeu_si512(y + j * ldy, low);
        _mm512_storeu_si512(y + (j + 8) * ldy, high);
    }
#elif defined(__AVX__)
    UNROLL for (int block = 0; block < 4; block++) {
        const int top = block / 2 * 8, left = block % 2 * 8;
        __m256 r[8], t[8];
        UNROLL for (int i = 0; i < 8; i++)
            r[i] = top + i < rows ? _mm256_loadu_ps((const float *)x + (top + i) * ldx + left)
                                  : _mm256_setzero_ps();
        UNROLL for (int i = 0; i < 8; i += 2) {
            t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        UNROLL for (int i = 0; i < 8; i += 4)
            UNROLL for (int j = 0; j < 2; j++) {
                r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
                r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
            }
        UNROLL for (int j = 0; j < 4; j++) {
            float *column = (float *)y + (left + j) * ldy + top;
            _mm256_storeu_ps(column, _mm256_permute2f128_ps(r[j], r[j + 4], 0x20));
            _mm256_storeu_ps(column + 4 * ldy, _mm256_permute2f128_ps(r[j], r[j + 4], 0x31));
        }
    }
#else
    for (int j = 0; j < 16; j++)
        for (int i = 0; i < 16; i++) y[j * ldy + i] = i < rows ? x[i * ldx + j] : 0;
#endif
}

/* The i-th head of (batch, n, ..., heads, d): its first row. */
INLINE const number *head_of(const number *x, long row, int n, int heads, int d, long i) {
    return x + i / heads * n * row + i % heads * d;
}

/* y (steps, np) = transpose of the units of x (n, steps); zeros after n. */
static void transpose(const number *x, long ldx, int n, int steps, uint32_t *y, int np) {
    for (int i = 0; i < np; i += 16)
        for (int j = 0; j < steps; j += 16)
            transpose16((const uint32_t *)(x + i * ldx) + j, ldx / PER_UNIT, n - i, y + j * np + i, np);
}

/* The rows of x (n, columns) packed to units along n: y (ceil(n / PER_UNIT), columns); a missing row
 * is zeros. Contiguous float rows are such units already and are used in place. */
static const uint32_t *stack(const number *x, long ldx, int n, int columns, uint32_t *y) {
#ifdef BF16
    for (int i = 0; i < n; i += 2)
        for (int j = 0; j < columns; j += LANES) {
            const number *even = x + i * ldx + j;
            units pairs = widen(even);
            if (i + 1 < n) pairs |= widen(even + ldx) << 16;
            STORE(units, y + (long)(i / 2) * columns + j, pairs);
        }
    return y;
#else
    if (ldx == columns) return (const uint32_t *)x;
    for (int i = 0; i < n; i++) memcpy(y + (long)i * columns, x + i * ldx, sizeof(number) * columns);
    return y;
#endif
}

/* Largest of the first n scores of a row. */
INLINE float highest_of(const float *row, int n) {
    const floats lowest = (floats){0} - INFINITY;
    floats top = lowest;
    for (int j = 0; j < n; j += LANES) {
        floats x = LOAD(floats, row + j);
        if (j + LANES > n) x = select_lanes(lanes_below(n - j), x, lowest);
        top = select_lanes(x > top, x, top);
    }
    return max_lanes(top);
}

/* exp(scale * score - shift) of elements of a row from j, zeros after n */
INLINE floats numerators_of(const float *row, int j, int n, float scale, float shift) {
    floats x = exp_lanes(LOAD(floats, row + j) * scale - shift);
    return j + LANES <= n ? x : (floats)((ints)x & lanes_below(n - j));
}

/* softmax(scale * s) of `rows` rows (n of np columns), computed together to hide latencies.
 * Either stored to p, zeros after n (s is overwritten), or multiplied by values (np) and added to sums. */
INLINE void softmax_group(const int rows, float *s, int n, int np, float scale, number *p,
                          const float *values, float *sums) {
    float shift[4], share[4];
    floats sum[4], attended[4];
    UNROLL for (int m = 0; m < rows; m++) {
        shift[m] = scale * highest_of(s + m * np, n);
        sum[m] = attended[m] = (floats){0};
    }
    for (int j = 0; j < np; j += LANES)
        UNROLL for (int m = 0; m < rows; m++) {
            floats x = numerators_of(s + m * np, j, n, scale, shift[m]);
            sum[m] += x;
            if (p)
                STORE(floats, s + m * np + j, x);
            else
                attended[m] += x * LOAD(floats, values + j);
        }
    UNROLL for (int m = 0; m < rows; m++) share[m] = 1.0f / sum_lanes(sum[m]);
    if (!p) {
        UNROLL for (int m = 0; m < rows; m++) sums[m] += sum_lanes(attended[m]) * share[m];
        return;
    }
    for (int j = 0; j < np; j += LANES)
        UNROLL for (int m = 0; m < rows; m++)
            store(p + m * np + j, LOAD(floats, s + m * np + j) * share[m]);
}

/* p (n, np) = softmax(scale * s) by rows, zeros after n; s is overwritten. */
static void softmax_rows(float *s, int n, int np, float scale, number *p) {
    int m = 0;
    for (; m + 4 <= n; m += 4) softmax_group(4, s + m * np, n, np, scale, p + m * np, 0, 0);
    for (; m < n; m++) softmax_group(1, s + m * np, n, np, scale, p + m * np, 0, 0);
}

/* sums (n) += softmax(scale * s) values, by rows */
static void attend_rows(float *s, const float *values, int n, int np, float scale, float *sums) {
    int m = 0;
    for (; m + 4 <= n; m += 4) softmax_group(4, s + m * np, n, np, scale, 0, values, sums + m);
    for (; m < n; m++) softmax_group(1, s + m * np, n, np, scale, 0, values, sums + m);
}

/* ds (n, np) = scale * p * (dp - rowsum(p * dp)) */
static void softmax_backward_rows(const number *p, const float *dp, int n, int np, float scale,
                                  number *ds) {
    for (int m = 0; m < n; m++) {
        const number *weights = p + (long)m * np;
        const float *row = dp + (long)m * np;
        floats sum = {0};
        for (int j = 0; j < np; j += LANES) sum += load(weights + j) * LOAD(floats, row + j);
        const float mean = sum_lanes(sum);
        for (int j = 0; j < np; j += LANES)
            store(ds + (long)m * np + j, load(weights + j) * (LOAD(floats, row + j) - mean) * scale);
    }
}

static void *take(char **scratch, size_t bytes) {
    void *taken = *scratch;
    *scratch += (bytes + 63) / 64 * 64;
    return taken;
}

/* Bytes of scratch memory per thread, enough for either pass. */
static size_t scratch_bytes(int n, int d) {
    size_t np = (n + 15) / 16 * 16;
    return 4 * (d * np + 2 * n * np + 3 * n * d + 2 * n * np + n * d) + 4096;
}

/* Treats denormal numbers as zeros: processors are slow at them. */
static unsigned flush_denormals(void) {
#ifdef __SSE2__
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

static void restore_denormals(unsigned before) {
#ifdef __SSE2__
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* Scratch memory of all threads in one block, or null; `bytes` per thread is rounded up. */
static char *allocate(size_t *bytes) {
    *bytes = (*bytes + 63) / 64 * 64;
    return aligned_alloc(64, *bytes * omp_get_max_threads());
}

int attention_forward(const number *qkv, number *out, number *p, int batch, int n, int heads, int d,
                      float scale) {
    const long row = 3L * heads * d, np = (n + 15) / 16 * 16;
    const int steps = d / PER_UNIT, stacked = (n + PER_UNIT - 1) / PER_UNIT;
    size_t bytes = scratch_bytes(n, d);
    char *memory = allocate(&bytes);
    if (!memory) return 1;
#pragma omp parallel
    {
        char *scratch = memory + bytes * omp_get_thread_num();
        unsigned denormals = flush_denormals();
        uint32_t *keys = take(&scratch, 4 * steps * np);
        uint32_t *values = take(&scratch, 4 * stacked * d);
        float *scores = take(&scratch, 4 * n * np);
        int32_t *offsets = take(&scratch, sizeof(number) * 3 * n * d / 16);
        const int count = line_offsets(n, row, 3, heads * d, d, offsets);
#pragma omp for schedule(static)
        for (long i = 0; i < (long)batch * heads; i++) {
            const number *q = head_of(qkv, row, n, heads, d, i);
            const number *k = q + heads * d, *v = k + heads * d;
            number *weights = p + i * n * np;
            lines ahead = {(const char *)head_of(qkv, row, n, heads, d, i + 1), offsets, 0, count};
            transpose(k, row, n, steps, keys, np);
            multiply(n, np, steps, (const uint32_t *)q, row / PER_UNIT, 1, keys, np, scores, 0, np,
                     &ahead);
            softmax_rows(scores, n, np, scale, weights);
            multiply(n, d, stacked, (const uint32_t *)weights, np / PER_UNIT, 1,
                     stack(v, row, n, d, values), d, 0,
                     (number *)head_of(out, (long)heads * d, n, heads, d, i), (long)heads * d, &ahead);
            fetch_rest(&ahead);
        }
        restore_denormals(denormals);
    }
    free(memory);
    return 0;
}

int attention_backward(const number *qkv, const number *p, const number *dout, number *dqkv, int batch,
                       int n, int heads, int d, float scale) {
    const long row = 3L * heads * d, np = (n + 15) / 16 * 16;
    const int steps = d / PER_UNIT, stacked = (n + PER_UNIT - 1) / PER_UNIT;
    size_t bytes = scratch_bytes(n, d);
    char *memory = allocate(&bytes);
    if (!memory) return 1;
#pragma omp parallel
    {
        char *scratch = memory + bytes * omp_get_thread_num();
        unsigned denormals = flush_denormals();
        uint32_t *values = take(&scratch, 4 * steps * np);
        float *dp = take(&scratch, 4 * n * np);
        number *ds = take(&scratch, sizeof(number) * n * np);
        uint32_t *queries = take(&scratch, 4 * stacked * d);
        uint32_t *keys = take(&scratch, 4 * stacked * d);
        uint32_t *gradients = take(&scratch, 4 * stacked * d);
        uint32_t *p_units = take(&scratch, 4 * stacked * np);
        uint32_t *ds_units = take(&scratch, 4 * stacked * np);
        int32_t *offsets = take(&scratch, sizeof(number) * 3 * n * d / 16);
        int32_t *g_offsets = take(&scratch, sizeof(number) * n * d / 16);
        const int count = line_offsets(n, row, 3, heads * d, d, offsets);
        const int g_count = line_offsets(n, (long)heads * d, 1, 0, d, g_offsets);
#pragma omp for schedule(static)
        for (long i = 0; i < (long)batch * heads; i++) {
            const number *q = head_of(qkv, row, n, heads, d, i);
            const number *k = q + heads * d, *v = k + heads * d, *weights = p + i * n * np;
            const number *g = head_of(dout, (long)heads * d, n, heads, d, i);
            number *dq = (number *)head_of(dqkv, row, n, heads, d, i);
            number *dk = dq + heads * d, *dv = dk + heads * d;
            lines ahead = {(const char *)head_of(qkv, row, n, heads, d, i + 1), offsets, 0, count};
            lines g_ahead = {(const char *)head_of(dout, (long)heads * d, n, heads, d, i + 1), g_offsets,
                             0, g_count};
            const uint32_t *g_stack = stack(g, (long)heads * d, n, d, gradients);
            transpose(v, row, n, steps, values, np);
            multiply(n, np, steps, (const uint32_t *)g, heads * steps, 1, values, np, dp, 0, np,
                     &g_ahead);
            softmax_backward_rows(weights, dp, n, np, scale, ds);
            multiply(n, d, stacked, (const uint32_t *)ds, np / PER_UNIT, 1,
                     stack(k, row, n, d, keys), d, 0, dq, row, &ahead);
            multiply(n, d, stacked, stack(ds, np, n, np, ds_units), 1, np,
                     stack(q, row, n, d, queries), d, 0, dk, row, &ahead);
            multiply(n, d, stacked, stack(weights, np, n, np, p_units), 1, np, g_stack, d, 0, dv, row,
                     &ahead);
            fetch_rest(&ahead);
            fetch_rest(&g_ahead);
        }
        restore_denormals(denormals);
    }
    free(memory);
    return 0;
}

/* out (batch, n) = sum over heads of softmax(scale * q k^T) values, with q and k projected from tokens
 * and a token's value one number per head.
 *   tokens (batch, n, dim), weight (2, heads, d, dim) of q and k, values (batch, n, heads) float,
 *   out (batch, n) float
 * A few images are processed together, head by head, so that tokens and weight stay in the caches. */
int scalar_attention(const number *tokens, const number *weight, const float *values, float *out,
                     int batch, int n, int heads, int d, int dim, float scale) {
    enum { GROUP = 4 };
    const long np = (n + 15) / 16 * 16, deep = dim / PER_UNIT, steps = d / PER_UNIT;
    size_t bytes = 4 * (GROUP * deep * np + deep * d + 2 * d * np + n * d + n * np + np) + 4096;
    char *memory = allocate(&bytes);
    if (!memory) return 1;
#pragma omp parallel
    {
        char *scratch = memory + bytes * omp_get_thread_num();
        unsigned denormals = flush_denormals();
        uint32_t *columns = take(&scratch, 4 * GROUP * deep * np); /* the images' tokens */
        uint32_t *to_query = take(&scratch, 4 * deep * d);
        number *keys = take(&scratch, sizeof(number) * d * np);
        uint32_t *key_units = take(&scratch, 4 * steps * np);
        number *queries = take(&scratch, sizeof(number) * n * d);
        float *scores = take(&scratch, 4 * n * np);
        float *lanes = take(&scratch, 4 * np);
        lines none = {0};
        memset(lanes, 0, 4 * np);
#pragma omp for schedule(static)
        for (int first = 0; first < batch; first += GROUP) {
            const int images = batch - first < GROUP ? batch - first : GROUP;
            const number *x = tokens + (long)first * n * dim;
            memset(out + (long)first * n, 0, 4L * images * n);
            for (int i = 0; i < images; i++)
                transpose(x + (long)i * n * dim, dim, n, deep, columns + i * deep * np, np);
            for (int head = 0; head < heads; head++) {
                const number *query = weight + (long)head * d * dim;
                const number *key = query + (long)heads * d * dim;
                transpose(query, dim, d, deep, to_query, d);
                for (int i = 0; i < images; i++) {
                    const float *value = values + (long)(first + i) * n * heads + head;
                    for (int j = 0; j < n; j++) lanes[j] = value[(long)j * heads];
                    multiply(d, np, deep, (const uint32_t *)key, deep, 1, columns + i * deep * np, np,
                             0, keys, np, &none);
                    multiply(n, d, deep, (const uint32_t *)(x + (long)i * n * dim), deep, 1, to_query,
                             d, 0, queries, d, &none);
                    multiply(n, np, steps, (const uint32_t *)queries, steps, 1,
                             stack(keys, np, d, np, key_units), np, scores, 0, np, &none);
                    attend_rows(scores, lanes, n, np, scale, out + (long)(first + i) * n);
                }
            }
        }
        restore_denormals(denormals);
    }
    free(memory);
    return 0;
}
