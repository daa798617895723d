/* Multi-head self-attention of short sequences for CPUs with AVX-512 bf16 instructions.
 *
 * One head of one image is a few kilobytes: all of its products, the softmax and both passes stay
 * in the first-level cache, and query, key and value are read from where the projection wrote
 * them, without a copy per head.
 *
 * Layouts (row-major, bf16 but for the sums):
 *   qkv, dqkv  (batch, n, 3, heads, dim_head)
 *   out, dout  (batch, n, heads, dim_head)
 *   p          (batch, heads, n, np): softmax(scale * q k^T), np = n rounded up to 16, zeros behind n
 *
 * dim_head must be a multiple of 32, at most 128.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

INLINE __m256i to_bf16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

INLINE __m512 to_float(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

/* exp(x) for x <= 0, relative error below 1e-6 */
INLINE __m512 exp_ps(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x); /* in this order a NaN stays one */
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 whole = _mm512_roundscale_ps(t, 0);
    __m512 f = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    f = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), f);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.0000001201e-1f));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(f, f), _mm512_add_ps(f, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, whole);
}

/* A tile of rows x (16 * vectors) of C = A B over pairs of bf16.
 * A: 32-bit pair of row m and step k at a[m * am + k * ak].
 * B: 32-bit pairs, step k at b + k * ldb.
 * Stored as float (c32, stride ldc) or as bf16 (c16, stride ldc). */
INLINE void tile(const int rows, const int vectors, const int steps, const uint32_t *a, long am,
                 long ak, const uint32_t *b, long ldb, float *c32, bf16 *c16, long ldc) {
    __m512 sum[6][4];
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = _mm512_setzero_ps();
    for (int k = 0; k < steps; k++) {
        __m512i right[4];
        UNROLL for (int v = 0; v < vectors; v++)
            right[v] = _mm512_loadu_si512(b + k * ldb + 16 * v);
        UNROLL for (int m = 0; m < rows; m++) {
            __m512i left = _mm512_set1_epi32((int)a[m * am + k * ak]);
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = dot(sum[m][v], left, right[v]);
        }
    }
    UNROLL for (int m = 0; m < rows; m++)
        UNROLL for (int v = 0; v < vectors; v++) {
            if (c32)
                _mm512_storeu_ps(c32 + m * ldc + 16 * v, sum[m][v]);
            else
                _mm256_storeu_si256((__m256i *)(c16 + m * ldc + 16 * v), to_bf16(sum[m][v]));
        }
}

#define TILE(R, V) tile(R, V, steps, a + m * am, am, ak, b + j, ldb, \
                        c32 ? c32 + m * ldc + j : 0, c16 ? c16 + m * ldc + j : 0, ldc)
#define ROWS(V)                                   \
    {                                             \
        int m = 0;                                \
        for (; m + 6 <= rows; m += 6) TILE(6, V); \
        switch (rows - m) {                       \
            case 5: TILE(5, V); break;            \
            case 4: TILE(4, V); break;            \
            case 3: TILE(3, V); break;            \
            case 2: TILE(2, V); break;            \
            case 1: TILE(1, V); break;            \
        }                                         \
    }

/* C (rows x columns) = A B; columns must be a multiple of 16. */
static void multiply(int rows, int columns, int steps, const uint32_t *a, long am, long ak,
                     const uint32_t *b, long ldb, float *c32, bf16 *c16, long ldc) {
    for (int j = 0; j < columns; j += 64) {
        switch (columns - j) {
            default: ROWS(4) break;
            case 48: ROWS(3) break;
            case 32: ROWS(2) break;
            case 16: ROWS(1) break;
        }
    }
}

/* 16 x 16 transpose of 32-bit units; rows beyond `rows` count as zeros. */
INLINE void transpose16(const uint32_t *x, long ldx, int rows, uint32_t *y, long ldy) {
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
}

/* y (d / 2, np) 32-bit = transpose of x (n, d), as pairs along d; zeros behind n. */
static void transpose_pairs(const bf16 *x, long ldx, int n, int d, uint32_t *y, int np) {
    for (int i = 0; i < np; i += 16)
        for (int j = 0; j < d / 2; j += 16)
            transpose16((const uint32_t *)(x + i * ldx) + j, ldx / 2, n - i, y + j * np + i, np);
}

/* y (ceil(n / 2), columns) 32-bit: pairs of rows of x (n, columns); a missing row is zeros. */
static void pair_rows(const bf16 *x, long ldx, int n, int columns, uint32_t *y) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                         39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    for (int i = 0; i < n; i += 2)
        for (int j = 0; j < columns; j += 16) {
            __m512i even = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(x + i * ldx + j)));
            __m512i odd = _mm512_setzero_si512();
            if (i + 1 < n)
                odd = _mm512_castsi256_si512(
                    _mm256_loadu_si256((const __m256i *)(x + (i + 1) * ldx + j)));
            _mm512_storeu_si512(y + (long)(i / 2) * columns + j,
                                _mm512_permutex2var_epi16(even, low, odd));
        }
}

/* p (n, np) = softmax(scale * s) by rows, zeros behind n */
static void softmax_rows(const float *s, int n, int np, float scale, bf16 *p) {
    const __mmask16 last = n % 16 ? (__mmask16)((1u << n % 16) - 1) : 0xffff;
    for (int m = 0; m < n; m++) {
        const float *row = s + (long)m * np;
        float numerators[256];
        __m512 top = _mm512_set1_ps(-INFINITY);
        for (int j = 0; j < np; j += 16)
            top = _mm512_mask_max_ps(top, j + 16 < np ? 0xffff : last, top, _mm512_loadu_ps(row + j));
        __m512 highest = _mm512_set1_ps(scale * _mm512_reduce_max_ps(top));
        __m512 sum = _mm512_setzero_ps();
        for (int j = 0; j < np; j += 16) {
            __m512 x = _mm512_fmsub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), highest);
            x = _mm512_maskz_mov_ps(j + 16 < np ? 0xffff : last, exp_ps(x));
            sum = _mm512_add_ps(sum, x);
            _mm512_storeu_ps(numerators + j, x);
        }
        __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
        for (int j = 0; j < np; j += 16)
            _mm256_storeu_si256((__m256i *)(p + (long)m * np + j),
                                to_bf16(_mm512_mul_ps(_mm512_loadu_ps(numerators + j), share)));
    }
}

/* ds (n, np) = scale * p * (dp - rowsum(p * dp)) */
static void softmax_backward_rows(const bf16 *p, const float *dp, int n, int np, float scale, bf16 *ds) {
    for (int m = 0; m < n; m++) {
        __m512 sum = _mm512_setzero_ps();
        for (int j = 0; j < np; j += 16) {
            __m512 x = to_float(_mm256_loadu_si256((const __m256i *)(p + (long)m * np + j)));
            sum = _mm512_fmadd_ps(x, _mm512_loadu_ps(dp + (long)m * np + j), sum);
        }
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
        for (int j = 0; j < np; j += 16) {
            __m512 x = to_float(_mm256_loadu_si256((const __m256i *)(p + (long)m * np + j)));
            x = _mm512_mul_ps(x, _mm512_sub_ps(_mm512_loadu_ps(dp + (long)m * np + j), mean));
            _mm256_storeu_si256((__m256i *)(ds + (long)m * np + j),
                                to_bf16(_mm512_mul_ps(x, _mm512_set1_ps(scale))));
        }
    }
}

/* Bytes of one thread's scratch, for both passes. */
static size_t scratch_bytes(int n, int d) {
    size_t np = (n + 15) / 16 * 16, pairs = (n + 1) / 2;
    return 4 * (d / 2 * np + n * np + 3 * pairs * d + 2 * pairs * np) + 2 * n * np + 1024;
}

static void *take(char **scratch, size_t bytes) {
    void *taken = *scratch;
    *scratch += (bytes + 63) / 64 * 64;
    return taken;
}

int attention_forward(const bf16 *qkv, bf16 *out, bf16 *p, int batch, int n, int heads, int d,
                      float scale) {
    const long row = 3L * heads * d, np = (n + 15) / 16 * 16;
    int failed = 0;
#pragma omp parallel
    {
        char *memory = aligned_alloc(64, (scratch_bytes(n, d) + 63) / 64 * 64), *scratch = memory;
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        } else {
            uint32_t *keys = take(&scratch, 4 * (d / 2) * np);
            uint32_t *values = take(&scratch, 4 * ((n + 1) / 2) * d);
            float *scores = take(&scratch, 4 * n * np);
#pragma omp for schedule(static)
            for (long i = 0; i < (long)batch * heads; i++) {
                long image = i / heads, head = i % heads;
                const bf16 *q = qkv + image * n * row + head * d;
                const bf16 *k = q + heads * d, *v = k + heads * d;
                bf16 *weights = p + i * n * np;
                transpose_pairs(k, row, n, d, keys, np);
                multiply(n, np, d / 2, (const uint32_t *)q, row / 2, 1, keys, np, scores, 0, np);
                softmax_rows(scores, n, np, scale, weights);
                pair_rows(v, row, n, d, values);
                multiply(n, d, (n + 1) / 2, (const uint32_t *)weights, np / 2, 1, values, d, 0,
                         out + (image * n * heads + head) * d, (long)heads * d);
            }
            free(memory);
        }
    }
    return failed;
}

int attention_backward(const bf16 *qkv, const bf16 *p, const bf16 *dout, bf16 *dqkv, int batch,
                       int n, int heads, int d, float scale) {
    const long row = 3L * heads * d, np = (n + 15) / 16 * 16, pairs = (n + 1) / 2;
    int failed = 0;
#pragma omp parallel
    {
        char *memory = aligned_alloc(64, (scratch_bytes(n, d) + 63) / 64 * 64), *scratch = memory;
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        } else {
            uint32_t *values = take(&scratch, 4 * (d / 2) * np);
            float *dp = take(&scratch, 4 * n * np);
            bf16 *ds = take(&scratch, 2 * n * np);
            uint32_t *q_pairs = take(&scratch, 4 * pairs * d);
            uint32_t *k_pairs = take(&scratch, 4 * pairs * d);
            uint32_t *g_pairs = take(&scratch, 4 * pairs * d);
            uint32_t *p_pairs = take(&scratch, 4 * pairs * np);
            uint32_t *ds_pairs = take(&scratch, 4 * pairs * np);
#pragma omp for schedule(static)
            for (long i = 0; i < (long)batch * heads; i++) {
                long image = i / heads, head = i % heads;
                long offset = image * n * row + head * d;
                const bf16 *q = qkv + offset, *k = q + heads * d, *v = k + heads * d;
                const bf16 *g = dout + (image * n * heads + head) * d;
                const bf16 *weights = p + i * n * np;
                bf16 *dq = dqkv + offset, *dk = dq + heads * d, *dv = dk + heads * d;
                transpose_pairs(v, row, n, d, values, np);
                multiply(n, np, d / 2, (const uint32_t *)g, heads * d / 2, 1, values, np, dp, 0, np);
                softmax_backward_rows(weights, dp, n, np, scale, ds);
                pair_rows(q, row, n, d, q_pairs);
                pair_rows(k, row, n, d, k_pairs);
                pair_rows(g, (long)heads * d, n, d, g_pairs);
                pair_rows(weights, np, n, np, p_pairs);
                pair_rows(ds, np, n, np, ds_pairs);
                multiply(n, d, pairs, (const uint32_t *)ds, np / 2, 1, k_pairs, d, 0, dq, row);
                multiply(n, d, pairs, ds_pairs, 1, np, q_pairs, d, 0, dk, row);
                multiply(n, d, pairs, p_pairs, 1, np, g_pairs, d, 0, dv, row);
            }
            free(memory);
        }
    }
    return failed;
}
