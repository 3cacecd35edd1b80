/* Values many rows with an ensemble of small trees, 64 or 128 rows at a time; see kernels.py.
 *
 * Nobody walks here. Every inner node of a tree is asked for all rows at once: a row's rank in the
 * node's column, one byte, is compared with the node's own, and what comes up from its left or its
 * right side, the number of a leaf, one byte, goes on to its parent. 64 rows fit into a register:
 * a node costs a comparison and a choice for all of them, where a walk costs two dependent loads a
 * row and a level. Children stand before their parents, so that the last node has the answers.
 *
 * A node with a set of category codes looks up a bit for each row's rank in a table of 256, which
 * fits into registers too.
 *
 * The leaves' values are looked up within registers, by permutation, and added in double precision
 * in the order of the trees, starting from 0.0: the bits of row_kernel.c.
 *
 * It takes AVX-512 (F and BW). Elsewhere, and for the few rows of a request, there is row_kernel.c.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define UNSUPPORTED 2
#define MISFIT 3

#define ROWS 64          /* of a register */
#define HALVES 2         /* registers of rows that are valued together: hides latency */
#define GROUP (HALVES * ROWS)
#define BLOCK_GROUPS 4   /* groups that go through a segment of trees */
#define MOST_LEAVES 64
#define MOST_NODES 192   /* of a tree */
#define SUMS 8           /* registers of doubles for 64 rows */

/* One column of ranks: a column of the row, compared with some of its thresholds. */
typedef struct {
    uint32_t column;
    uint32_t first;      /* of its thresholds */
    uint32_t count;      /* at most 255 */
    uint32_t nan_rank;   /* 0 sends NaN left, 255 right */
} Column;

/* An inner node. Column and operands are places in memory, in bytes: GROUP times a virtual column,
   GROUP times the number of a leaf, or of a node, which count from MOST_LEAVES on. */
typedef struct {
    uint16_t column;
    uint16_t less, greater;
    uint16_t has_set;    /* 0 or 1 */
    uint32_t rank;       /* the same byte four times, or the number of the node's set */
} Node;

#define SET_BYTES 32     /* whether a row of each rank goes right, a bit each */

typedef struct {
    const Node *nodes;
    const uint32_t *counts;     /* inner nodes of each tree */
    const uint32_t *leaves;     /* of each tree: the low words of its leaves' values, then the high */
    const Column *columns;
    const double *thresholds;
    const uint32_t *segments;   /* trees of each segment, which stays in the cache */
    const uint8_t *sets;
    uint32_t n_columns, n_segments, n_features;
    uint32_t table;             /* words of a half of a tree's leaves: 32 or 64 */
    uint32_t float32_inputs, n_sets;
    double scale, base;
} WideTrees;

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw")))
#define INLINED __attribute__((target("avx512f,avx512bw"), always_inline))

/* Writes the ranks of the `n` rows of a register, the last of which stands in for those behind it. */
WIDE static void rank_rows(const WideTrees *trees, const double *rows, size_t n, uint8_t *ranks)
{
    const __m512i last = _mm512_set1_epi64((long long)n - 1);
    const __m512i width = _mm512_set1_epi64(trees->n_features);
    const __m512i eight = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    for (uint32_t c = 0; c < trees->n_columns; c++) {
        const Column *column = &trees->columns[c];
        const double *thresholds = trees->thresholds + column->first;
        const __m512i nan_rank = _mm512_set1_epi64(column->nan_rank);
        for (size_t first = 0; first < ROWS; first += 8) {
            __m512i row = _mm512_add_epi64(_mm512_set1_epi64((long long)first), eight);
            row = _mm512_mul_epu32(_mm512_min_epi64(row, last), width);
            __m512d x = _mm512_i64gather_pd(row, rows + column->column, 8);
            if (trees->float32_inputs)
                x = _mm512_cvtps_pd(_mm512_cvtpd_ps(x));
            __m512i low = _mm512_setzero_si512();
            uint32_t left = column->count;
            for (; left > 1; left -= left / 2) {
                const __m512i half = _mm512_set1_epi64(left / 2);
                const __m512d middle = _mm512_i64gather_pd(low, thresholds + left / 2 - 1, 8);
                low = _mm512_mask_add_epi64(low, _mm512_cmp_pd_mask(middle, x, _CMP_LT_OQ), low, half);
            }
            if (left) {
                const __m512d middle = _mm512_i64gather_pd(low, thresholds, 8);
                low = _mm512_mask_add_epi64(low, _mm512_cmp_pd_mask(middle, x, _CMP_LT_OQ), low,
                                            _mm512_set1_epi64(1));
            }
            low = _mm512_mask_mov_epi64(low, _mm512_cmp_pd_mask(x, x, _CMP_UNORD_Q), nan_rank);
            _mm_storel_epi64((__m128i *)(ranks + c * GROUP + first), _mm512_cvtepi64_epi8(low));
        }
    }
}

/* Looks up 16 words by their number in a table of 32 or 64: the low 5 bits select in a half of it. */
WIDE static inline __m512i look_up(const uint32_t *table, __m512i at, uint32_t words, __mmask16 upper)
{
    const __m512i found =
        _mm512_permutex2var_epi32(_mm512_loadu_si512(table), at, _mm512_loadu_si512(table + 16));
    if (words == 32)
        return found;
    return _mm512_mask_mov_epi32(
        found, upper,
        _mm512_permutex2var_epi32(_mm512_loadu_si512(table + 32), at, _mm512_loadu_si512(table + 48)));
}

/* Adds a tree's values of the leaves of 64 rows. A register's byte 4 j + b is row 4 j + b; the word
   j of the register shifted by b bytes selects that row's value, which is put together from halves. */
WIDE static inline void add_leaves(const uint32_t *table, uint32_t words, __m512i leaves, __m512d *sums)
{
    const __m512i bit = _mm512_set1_epi32(32);
#define ADD(b) { \
        const __m512i at = _mm512_srli_epi32(leaves, 8 * b); \
        const __mmask16 upper = words == 32 ? 0 : _mm512_test_epi32_mask(at, bit); \
        const __m512i low = look_up(table, at, words, upper); \
        const __m512i high = look_up(table + words, at, words, upper); \
        sums[2 * b] = _mm512_add_pd( \
            sums[2 * b], _mm512_castsi512_pd(_mm512_unpacklo_epi32(low, high))); \
        sums[2 * b + 1] = _mm512_add_pd( \
            sums[2 * b + 1], _mm512_castsi512_pd(_mm512_unpackhi_epi32(low, high))); }
    ADD(0) ADD(1) ADD(2) ADD(3)
#undef ADD
}

/* Which of 64 rows go right by a set: the upper five bits of a rank select a byte of the table, the
   lower three a bit of that byte. */
WIDE static inline __mmask64 by_set(__m512i ranks, const uint8_t *set)
{
    const __m512i low = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)set));
    const __m512i high = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(set + 16)));
    const __m512i powers = _mm512_set1_epi64((long long)0x8040201008040201ULL);
    const __m512i at = _mm512_and_si512(_mm512_srli_epi16(ranks, 3), _mm512_set1_epi8(31));
    const __mmask64 upper = _mm512_test_epi8_mask(at, _mm512_set1_epi8(16));
    const __m512i index = _mm512_and_si512(at, _mm512_set1_epi8(15));
    const __m512i bytes = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, index), upper, high, index);
    const __m512i bit = _mm512_shuffle_epi8(powers, _mm512_and_si512(ranks, _mm512_set1_epi8(7)));
    return _mm512_test_epi8_mask(bytes, bit);
}

/* Adds a segment's trees to the sums of `halves` times 64 rows. */
INLINED static inline void add_trees(const Node *node, const uint32_t *counts,
                                     const uint32_t *leaves, uint32_t n_trees, const uint8_t *sets,
                                     size_t halves, uint32_t words, const uint8_t *ranks,
                                     uint8_t *cells, double *kept)
{
    __m512d sums[HALVES * SUMS];
    for (size_t i = 0; i < halves * SUMS; i++)
        sums[i] = _mm512_load_pd(kept + 8 * i);
    for (uint32_t t = 0; t < n_trees; t++) {
        uint8_t *result = cells + MOST_LEAVES * GROUP;
        for (const Node *end = node + counts[t]; node < end; node++, result += GROUP) {
            const __m512i rank = _mm512_set1_epi32((int)node->rank);
            const uint8_t *column = ranks + node->column;
            const uint8_t *from_less = cells + node->less, *from_greater = cells + node->greater;
            for (size_t h = 0; h < halves * ROWS; h += ROWS) {
                const __m512i row = _mm512_load_si512(column + h);
                const __m512i less = _mm512_load_si512(from_less + h);
                const __m512i greater = _mm512_load_si512(from_greater + h);
                const __mmask64 right = sets != NULL && node->has_set
                                            ? by_set(row, sets + (size_t)node->rank * SET_BYTES)
                                            : _mm512_cmpgt_epu8_mask(row, rank);
                _mm512_store_si512(result + h, _mm512_mask_mov_epi8(less, right, greater));
            }
        }
        const uint8_t *root = counts[t] ? result - GROUP : cells;
        add_leaves(leaves, words, _mm512_load_si512(root), sums);
        if (halves == HALVES)
            add_leaves(leaves, words, _mm512_load_si512(root + ROWS), sums + SUMS);
        leaves += 2 * words;
    }
    for (size_t i = 0; i < halves * SUMS; i++)
        _mm512_store_pd(kept + 8 * i, sums[i]);
}

/* The same with constants for how many rows and leaves there are, which frees it of branches. */
INLINED static inline void add_some(const Node *nodes, const uint32_t *counts,
                                    const uint32_t *leaves, uint32_t n_trees, const uint8_t *sets,
                                    size_t halves, uint32_t words, const uint8_t *ranks,
                                    uint8_t *cells, double *kept)
{
    if (halves == HALVES && words == 32)
        add_trees(nodes, counts, leaves, n_trees, sets, HALVES, 32, ranks, cells, kept);
    else if (halves == HALVES)
        add_trees(nodes, counts, leaves, n_trees, sets, HALVES, 64, ranks, cells, kept);
    else if (words == 32)
        add_trees(nodes, counts, leaves, n_trees, sets, 1, 32, ranks, cells, kept);
    else
        add_trees(nodes, counts, leaves, n_trees, sets, 1, 64, ranks, cells, kept);
}

/* Trees without sets do not ask for them. */
WIDE static void add_segment(const WideTrees *trees, const Node *nodes, const uint32_t *counts,
                             const uint32_t *leaves, uint32_t n_trees, size_t halves,
                             const uint8_t *ranks, uint8_t *cells, double *kept)
{
    if (trees->n_sets == 0)
        add_some(nodes, counts, leaves, n_trees, NULL, halves, trees->table, ranks, cells, kept);
    else
        add_some(nodes, counts, leaves, n_trees, trees->sets, halves, trees->table, ranks, cells, kept);
}

/* Where the sum of row r of a register stands among its SUMS * 8 doubles. */
static size_t place_of(size_t r)
{
    const size_t word = r / 4, lane = word / 4, in_lane = word % 4;
    return (2 * (r % 4) + in_lane / 2) * 8 + 2 * lane + in_lane % 2;
}

typedef struct {
    uint8_t *ranks; /* (groups, columns, GROUP) */
    uint8_t *cells; /* the leaves' numbers, then what nodes say: (64 + nodes of a tree, GROUP) */
    double *sums;   /* (groups, GROUP) */
} Work;

/* Values up to BLOCK_GROUPS groups of rows: segment by segment, which stays in the cache for all. */
WIDE static void predict_block(const WideTrees *trees, const double *rows, size_t n,
                               const Work *work, double *scores)
{
    const size_t groups = (n + GROUP - 1) / GROUP, group_ranks = (size_t)trees->n_columns * GROUP;
    for (size_t first = 0; first < n; first += ROWS)
        rank_rows(trees, rows + first * trees->n_features, n - first,
                  work->ranks + first / GROUP * group_ranks + first % GROUP);
    for (size_t i = 0; i < groups * GROUP; i++)
        work->sums[i] = 0.0;
    const Node *nodes = trees->nodes;
    const uint32_t *counts = trees->counts, *leaves = trees->leaves;
    for (uint32_t s = 0; s < trees->n_segments; s++) {
        const uint32_t n_trees = trees->segments[s];
        for (size_t g = 0; g < groups; g++) {
            const size_t halves = n - g * GROUP <= ROWS ? 1 : HALVES;
            add_segment(trees, nodes, counts, leaves, n_trees, halves,
                        work->ranks + g * group_ranks, work->cells, work->sums + g * GROUP);
        }
        for (uint32_t t = 0; t < n_trees; t++)
            nodes += counts[t];
        counts += n_trees;
        leaves += (size_t)n_trees * 2 * trees->table;
    }
    for (size_t row = 0; row < n; row++)
        scores[row] = trees->scale * work->sums[row / ROWS * ROWS + place_of(row % ROWS)] + trees->base;
}

static int supported(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

/* Returns 0 for trees that lead nowhere outside of their arrays, else 3: asked once, when they are
   laid out. `counts` has an entry for each of n_trees, `leaves` 2 * table words for each. */
int tasador_check_wide_trees(const WideTrees *trees, size_t n_nodes, size_t n_trees, size_t n_words,
                             size_t n_thresholds)
{
    if (trees->n_columns == 0 || (uint64_t)trees->n_columns * GROUP > 65536
        || (trees->table != 32 && trees->table != MOST_LEAVES)
        || n_words != n_trees * 2 * trees->table)
        return MISFIT;
    for (uint32_t c = 0; c < trees->n_columns; c++) {
        const Column *column = &trees->columns[c];
        if (column->column >= trees->n_features || column->first > n_thresholds
            || column->count > n_thresholds - column->first || column->count > 255
            || column->nan_rank > 255)
            return MISFIT;
    }
    size_t in_segments = 0, first = 0;
    for (uint32_t s = 0; s < trees->n_segments; s++)
        in_segments += trees->segments[s];
    for (size_t t = 0; t < n_trees; first += trees->counts[t++]) {
        if (trees->counts[t] > MOST_NODES || trees->counts[t] > n_nodes - first)
            return MISFIT;
        for (uint32_t i = 0; i < trees->counts[t]; i++) {
            const Node *node = &trees->nodes[first + i];
            const uint32_t end = (MOST_LEAVES + i) * GROUP; /* what stands before this node */
            const uint32_t leaves = trees->table * GROUP;
            if (node->has_set > 1 || (node->has_set && node->rank >= trees->n_sets)
                || node->column % GROUP || node->column >= trees->n_columns * GROUP
                || node->less % GROUP || node->greater % GROUP
                || (node->less >= leaves && (node->less < MOST_LEAVES * GROUP || node->less >= end))
                || (node->greater >= leaves
                    && (node->greater < MOST_LEAVES * GROUP || node->greater >= end)))
                return MISFIT;
        }
    }
    return in_segments == n_trees && first == n_nodes ? 0 : MISFIT;
}

/* Writes the scores of n rows of `width` doubles each. Returns 1 when memory is short, 2 where the
   processor cannot do it, which calling it for no rows tells, and 3, with nothing written, for rows
   of another width than the trees'. */
int tasador_wide_trees_predict(const WideTrees *trees, const double *rows, size_t n, double *scores,
                               size_t width)
{
    if (!supported())
        return UNSUPPORTED;
    if (n == 0)
        return 0;
    if (width != trees->n_features)
        return MISFIT;
    Work work = {
        aligned_alloc(64, (size_t)BLOCK_GROUPS * trees->n_columns * GROUP),
        aligned_alloc(64, (size_t)(MOST_LEAVES + MOST_NODES) * GROUP),
        aligned_alloc(64, (size_t)BLOCK_GROUPS * GROUP * sizeof *work.sums),
    };
    const int failed = work.ranks == NULL || work.cells == NULL || work.sums == NULL;
    for (size_t i = 0; i < (size_t)MOST_LEAVES * GROUP && !failed; i++)
        work.cells[i] = (uint8_t)(i / GROUP);
    for (size_t first = 0; first < n && !failed; first += BLOCK_GROUPS * GROUP) {
        const size_t rest = n - first, part = rest < BLOCK_GROUPS * GROUP ? rest : BLOCK_GROUPS * GROUP;
        predict_block(trees, rows + first * trees->n_features, part, &work, scores + first);
    }
    free(work.ranks);
    free(work.cells);
    free(work.sums);
    return failed;
}

#else

int tasador_check_wide_trees(const WideTrees *trees, size_t n_nodes, size_t n_trees, size_t n_words,
                             size_t n_thresholds)
{
    (void)trees, (void)n_nodes, (void)n_trees, (void)n_words, (void)n_thresholds;
    return UNSUPPORTED;
}

int tasador_wide_trees_predict(const WideTrees *trees, const double *rows, size_t n, double *scores,
                               size_t width)
{
    (void)trees, (void)rows, (void)n, (void)scores, (void)width;
    return UNSUPPORTED;
}

#endif
