/* Values rows with an ensemble of regression trees; see kernels.py for the layout.
 *
 * All trees form one chain. A node says which cell of the row's ranks to compare with its own rank
 * and where its left child stands; the right child stands next to it. A leaf's "left child" is the
 * root of the next tree, so that a row walks through a whole segment of trees without a branch that
 * could be mispredicted; at the segment's end stands a gate, whose child is itself. What hides the
 * memory's latency is that LANES such walks are interleaved. Leaf values are added in the order of
 * the trees, starting from 0.0, in double precision: the bits of a score depend neither on the
 * number of rows nor on which of the two walks below was taken.
 *
 * Trees that split on sets of category codes have a table of bits for each node: whether a row of
 * that rank in the node's column goes right. Other nodes of such trees ask bits that are all 0. The
 * walks are compiled twice, so that trees without sets do not ask.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define LANES 16
#define BLOCK_ROWS 512
#define STEPS_BETWEEN_CHECKS 16
#define NO_SET (65536 / 64)

/* the walks' constants are only constants where they are inlined */
#if defined(__GNUC__) || defined(__clang__)
#define INLINE inline __attribute__((always_inline))
#else
#define INLINE inline
#endif

/* One column of ranks: a column of the row, compared with some of its thresholds. */
typedef struct {
    uint32_t column;
    uint32_t first;      /* of its thresholds */
    uint32_t count;      /* at most 65535 */
    uint32_t nan_rank;   /* 0 sends NaN left, 65535 right */
} Column;

typedef struct {
    uint32_t root, gate, first_tree, n_trees;
} Segment;

typedef struct {
    /* Words hold, from the lowest bit: 16 bits of cell, the virtual column times LANES; 16 bits with
       65535 - the node's rank; 32 bits with the left child's number. Adding the row's rank, shifted
       by 16, carries into the child's number exactly when the row's rank is greater: it goes right. */
    const uint64_t *words;
    const double *values; /* added when the node is passed: 0.0 but in a leaf */
    const Column *columns;
    const double *thresholds;
    const Segment *segments;
    const uint32_t *tables;     /* of each node: the first of its words in `bits`; NULL without sets */
    const uint64_t *bits;       /* one for a rank, from the lowest; the first NO_SET words are 0 */
    uint32_t n_columns, n_segments, n_trees, n_features;
    uint32_t most_trees;        /* of a segment */
    uint32_t float32_inputs;
    uint32_t n_bits;            /* words */
    uint32_t unused;
    double scale, base;
} Trees;

#define EACH_LANE(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)

/* Ranks of the first `lanes` rows of a group; lanes from `n` on repeat row n - 1. */
static inline void rank_rows(const Trees *trees, const double *rows, size_t n, size_t lanes,
                             uint64_t *ranks)
{
    for (uint32_t c = 0; c < trees->n_columns; c++) {
        const Column *column = &trees->columns[c];
        const double *thresholds = trees->thresholds + column->first;
        const double *x = rows + column->column;
        double values[LANES];
        uint32_t low[LANES];
        for (size_t lane = 0; lane < lanes; lane++) {
            double value = x[(lane < n ? lane : n - 1) * trees->n_features];
            values[lane] = trees->float32_inputs ? (double)(float)value : value;
            low[lane] = 0;
        }
        for (uint32_t left = column->count; left > 1; left -= left / 2)
            for (size_t lane = 0; lane < lanes; lane++)
                low[lane] += thresholds[low[lane] + left / 2 - 1] < values[lane] ? left / 2 : 0;
        for (size_t lane = 0; lane < lanes; lane++) {
            uint64_t rank = 0;
            if (column->count)
                rank = low[lane] + (thresholds[low[lane]] < values[lane]);
            ranks[c * LANES + lane] = (isnan(values[lane]) ? column->nan_rank : rank) << 16;
        }
    }
}

/* 1 where a row goes right by the set of node `node`; `rank` is the row's, shifted by 16. */
#define BY_SET(node, rank) \
    (trees->bits[trees->tables[node] + ((rank) >> 22)] >> ((rank) >> 16 & 63) & 1)

/* Adds a segment's trees to the sums of LANES rows. */
static INLINE void walk_rows(const Trees *trees, const Segment *segment, int sets,
                             const uint64_t *ranks, double *sums)
{
    const uint64_t *words = trees->words;
    const double *values = trees->values;
    const uint64_t gate = segment->gate;
#define DECLARE(i) uint64_t n##i = segment->root; double s##i = sums[i];
#define STEP(i) { \
        const uint64_t word = words[n##i], rank = ranks[(word & 0xffff) + i]; \
        const uint64_t right = sets ? BY_SET(n##i, rank) : 0; \
        s##i += values[n##i]; \
        n##i = ((word + rank) >> 32) + right; }
#define WALKING(i) | (n##i ^ gate)
#define KEEP(i) sums[i] = s##i;
    EACH_LANE(DECLARE)
    do {
        for (int step = 0; step < STEPS_BETWEEN_CHECKS; step++) {
            EACH_LANE(STEP)
        }
    } while (0 EACH_LANE(WALKING));
    EACH_LANE(KEEP)
#undef DECLARE
#undef STEP
#undef WALKING
#undef KEEP
}

/* Writes the numbers of the leaves that LANES walks meet: of row i % rows in segment i / rows. */
static INLINE void walk_segments(const Trees *trees, const Segment *segments, size_t rows,
                                 int sets, const uint64_t *ranks, uint32_t *leaves, size_t stride,
                                 size_t row_stride)
{
    const uint64_t *words = trees->words;
    uint64_t unfinished;
#define DECLARE(i) uint64_t n##i = segments[i / rows].root; \
    uint32_t *out##i = leaves + i % rows * row_stride + i / rows * stride;
#define STEP(i) { \
        const uint64_t word = words[n##i], rank = ranks[(word & 0xffff) + i % rows]; \
        const uint64_t right = sets ? BY_SET(n##i, rank) : 0; \
        *out##i = (uint32_t)n##i; \
        out##i += (word & 0xffff) == 0; \
        n##i = ((word + rank) >> 32) + right; }
#define WALKING(i) | (n##i ^ segments[i / rows].gate)
    EACH_LANE(DECLARE)
    do {
        for (int step = 0; step < STEPS_BETWEEN_CHECKS; step++) {
            EACH_LANE(STEP)
        }
        unfinished = 0 EACH_LANE(WALKING);
    } while (unfinished);
#undef DECLARE
#undef STEP
#undef WALKING
}

/* Values up to LANES / 2 rows: the walks of one row go through several segments at once. */
static int predict_few(const Trees *trees, const double *rows, size_t n, double *scores)
{
    size_t lanes = 1;
    while (lanes < n)
        lanes *= 2;
    const size_t stride = (size_t)trees->most_trees + 1; /* a gate writes one number behind the last */
    const size_t row_stride = stride * trees->n_segments;
    uint64_t *ranks = malloc((size_t)trees->n_columns * LANES * sizeof *ranks);
    uint32_t *leaves = malloc(lanes * row_stride * sizeof *leaves);
    if (ranks == NULL || leaves == NULL) {
        free(ranks);
        free(leaves);
        return 1;
    }
    rank_rows(trees, rows, n, lanes, ranks);
    for (uint32_t first = 0; first < trees->n_segments; first += (uint32_t)(LANES / lanes)) {
        const Segment *segments = trees->segments + first;
        uint32_t *out = leaves + first * stride;
        const size_t with = trees->tables != NULL ? LANES : 0;
        switch (lanes + with) { /* constants, a number of rows makes every lane's place one */
        case 1: walk_segments(trees, segments, 1, 0, ranks, out, stride, row_stride); break;
        case 2: walk_segments(trees, segments, 2, 0, ranks, out, stride, row_stride); break;
        case 4: walk_segments(trees, segments, 4, 0, ranks, out, stride, row_stride); break;
        case 8: walk_segments(trees, segments, 8, 0, ranks, out, stride, row_stride); break;
        case LANES + 1: walk_segments(trees, segments, 1, 1, ranks, out, stride, row_stride); break;
        case LANES + 2: walk_segments(trees, segments, 2, 1, ranks, out, stride, row_stride); break;
        case LANES + 4: walk_segments(trees, segments, 4, 1, ranks, out, stride, row_stride); break;
        default: walk_segments(trees, segments, 8, 1, ranks, out, stride, row_stride); break;
        }
    }
    double sums[LANES] = {0.0};
    for (uint32_t s = 0; s < trees->n_segments; s++)
        for (uint32_t tree = 0; tree < trees->segments[s].n_trees; tree++)
            for (size_t row = 0; row < n; row++)
                sums[row] += trees->values[leaves[row * row_stride + s * stride + tree]];
    for (size_t row = 0; row < n; row++)
        scores[row] = trees->scale * sums[row] + trees->base;
    free(ranks);
    free(leaves);
    return 0;
}

/* Values up to BLOCK_ROWS rows: segment by segment, which stays in the cache for all groups. */
static void predict_block(const Trees *trees, const double *rows, size_t n, uint64_t *ranks,
                          double *sums, double *scores)
{
    const size_t groups = (n + LANES - 1) / LANES, group_size = (size_t)trees->n_columns * LANES;
    for (size_t g = 0; g < groups; g++) {
        const size_t rest = n - g * LANES;
        rank_rows(trees, rows + g * LANES * trees->n_features, rest, LANES, ranks + g * group_size);
    }
    for (size_t i = 0; i < groups * LANES; i++)
        sums[i] = 0.0;
    for (uint32_t s = 0; s < trees->n_segments; s++)
        for (size_t g = 0; g < groups; g++) {
            const uint64_t *of_group = ranks + g * group_size;
            if (trees->tables == NULL)
                walk_rows(trees, trees->segments + s, 0, of_group, sums + g * LANES);
            else
                walk_rows(trees, trees->segments + s, 1, of_group, sums + g * LANES);
        }
    for (size_t row = 0; row < n; row++)
        scores[row] = trees->scale * sums[row] + trees->base;
}

/* Whether every walk through a segment meets as many leaves as it has trees, and ends at its gate;
   `left` holds how many are still to come from each of its nodes on. */
static int fits(const Trees *trees, const Segment *segment, uint32_t *left)
{
    const uint64_t gate = segment->gate, root = segment->root;
    if (root > gate || trees->words[gate] >> 32 != gate || (trees->words[gate] >> 16 & 0xffff) != 0
        || (trees->words[gate] & 0xffff) != LANES)
        return 0;
    left[gate] = 0;
    for (uint64_t i = gate; i-- > root;) {
        const uint64_t child = trees->words[i] >> 32, cell = trees->words[i] & 0xffff;
        if (child <= i || child + (cell != 0) > gate || (cell != 0 && left[child] != left[child + 1]))
            return 0;
        left[i] = left[child] + (cell == 0);
    }
    return left[root] == segment->n_trees;
}

/* Whether every table has a bit for each rank of its node's column, and only an inner node whose own
   rank no row exceeds has one. */
static int sets_fit(const Trees *trees, size_t n_words)
{
    if (trees->tables == NULL)
        return trees->bits == NULL;
    if (trees->bits == NULL || trees->n_bits < NO_SET)
        return 0;
    for (size_t i = 0; i < NO_SET; i++)
        if (trees->bits[i] != 0)
            return 0;
    for (size_t i = 0; i < n_words; i++) {
        const uint64_t table = trees->tables[i], cell = trees->words[i] & 0xffff;
        const Column *column = &trees->columns[cell / LANES];
        const uint32_t most = column->count > column->nan_rank ? column->count : column->nan_rank;
        if (table + most / 64 >= trees->n_bits
            || (table != 0 && (cell < 2 * LANES || (trees->words[i] >> 16 & 0xffff) != 0)))
            return 0;
    }
    return 1;
}

/* Returns 0 for trees that lead nowhere outside of their arrays, else 3, or 1 when memory is short:
   asked once, when they are laid out. A child stands behind its node, a gate is its own child, so
   that every walk ends. */
int tasador_check_trees(const Trees *trees, size_t n_words, size_t n_thresholds)
{
    const uint64_t cells = (uint64_t)trees->n_columns * LANES;
    if (trees->n_columns < 2 || cells > 65536 || n_words == 0 || n_words > UINT32_MAX
        || trees->n_segments == 0 || trees->n_segments % LANES != 0)
        return 3;
    for (uint32_t c = 0; c < trees->n_columns; c++) {
        const Column *column = &trees->columns[c];
        if (column->column >= trees->n_features || column->first > n_thresholds
            || column->count > n_thresholds - column->first || column->count > 65535
            || column->nan_rank > 65535 || (c < 2 && (column->count || column->nan_rank)))
            return 3;
    }
    for (size_t i = 0; i < n_words; i++) {
        const uint64_t cell = trees->words[i] & 0xffff;
        if (cell % LANES != 0 || cell >= cells)
            return 3;
    }
    if (!sets_fit(trees, n_words))
        return 3;
    uint32_t *left = malloc(n_words * sizeof *left);
    if (left == NULL)
        return 1;
    uint64_t behind = 0;
    int failed = 0;
    for (uint32_t s = 0; s < trees->n_segments && !failed; s++) {
        const Segment *segment = &trees->segments[s];
        failed = segment->gate >= n_words || segment->first_tree != behind
                 || segment->n_trees > trees->most_trees || !fits(trees, segment, left);
        behind += segment->n_trees;
    }
    free(left);
    return failed || behind != trees->n_trees ? 3 : 0;
}

/* Writes the scores of n rows of `width` doubles each. Returns 1 when memory is short, and 3, with
   nothing written, for rows of another width than the trees'. */
int tasador_trees_predict(const Trees *trees, const double *rows, size_t n, double *scores,
                          size_t width)
{
    if (n == 0)
        return 0;
    if (width != trees->n_features)
        return 3;
    if (n <= LANES / 2)
        return predict_few(trees, rows, n, scores);
    const size_t most = n < BLOCK_ROWS ? (n + LANES - 1) / LANES * LANES : BLOCK_ROWS;
    uint64_t *ranks = malloc(most * trees->n_columns * sizeof *ranks);
    double *sums = malloc(most * sizeof *sums);
    int failed = ranks == NULL || sums == NULL;
    while (n > 0 && !failed) {
        size_t part = n < BLOCK_ROWS ? n : BLOCK_ROWS;
        const size_t tail = part % LANES;
        if (part > LANES && tail > 0 && tail <= LANES / 2)
            part -= tail;
        if (part <= LANES / 2)
            failed = predict_few(trees, rows, part, scores);
        else
            predict_block(trees, rows, part, ranks, sums, scores);
        rows += part * trees->n_features;
        scores += part;
        n -= part;
    }
    free(ranks);
    free(sums);
    return failed;
}
