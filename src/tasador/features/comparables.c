/* Comparables of rows: the nearest training rows, and the sums over them; see compact_index.py.
 *
 * Training rows often lie equally far away, and which of them are taken, in which order, shows in
 * the features. The search therefore takes scipy's cKDTree as it is, cell by cell, and goes through
 * it with the same two heaps in the same order; what differs is that a leaf's points lie side by
 * side, and that rows are searched, gathered and summed without leaving C.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NEIGHBOURS 64
#define STEPS 7        /* 1, 2, 4 ... 64 */
#define WIDE 3         /* the first of them from which means by resemblance are taken: 8 */
#define NEAREST_STEP 4 /* 16 */
#define MOST_SERIES 64

typedef struct {
    double split;
    int32_t axis;           /* -1 for a leaf */
    uint32_t less, greater; /* children; first point and end of a leaf */
    uint32_t unused;
} Cell;

typedef struct {
    const Cell *cells;
    const double *points;   /* in the leaves' order */
    const int64_t *indices; /* the training row of each */
    const double *low, *high; /* the box around all points */
    const double *target, *similar, *context; /* by training row; similar may be NULL */
    const double *factors;  /* of the squared gap, one per bandwidth */
    uint64_t size, dimensions, contexts, bandwidths;
    double slope, softening;
} Index;

typedef struct {
    double priority;
    int64_t content;
} Item;

typedef struct {
    Item *items;
    size_t n, space;
} Heap;

/* A cell waiting to be searched; its distances along the axes stand in the search's `sides`. */
typedef struct {
    uint32_t cell;
    double distance;
} Visit;

typedef struct {
    Heap near, waiting;
    Visit *visits;
    double *sides;
    size_t n_visits, space;
} Search;

static void sift_up(Heap *heap, Item item)
{
    size_t i = heap->n++;
    while (i > 0 && item.priority < heap->items[(i - 1) / 2].priority) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
}

static Item pop(Heap *heap)
{
    Item *items = heap->items;
    const Item top = items[0], last = items[heap->n - 1];
    const size_t n = --heap->n;
    size_t i = 0, j = 1;
    while (j + 1 < n) {
        /* arithmetic, not a branch: which child is smaller cannot be predicted */
        j += items[j].priority > items[j + 1].priority;
        if (!(last.priority > items[j].priority))
            break;
        items[i] = items[j];
        i = j;
        j = 2 * i + 1;
    }
    if (j + 1 == n && last.priority > items[j].priority) {
        items[i] = items[j];
        i = j;
    }
    items[i] = last;
    return top;
}

static int grow(Search *search, size_t dimensions)
{
    const size_t space = search->space ? 2 * search->space : 256;
    Visit *visits = realloc(search->visits, space * sizeof *visits);
    if (visits != NULL)
        search->visits = visits;
    double *sides = realloc(search->sides, space * dimensions * sizeof *sides);
    if (sides != NULL)
        search->sides = sides;
    Item *items = realloc(search->waiting.items, space * sizeof *items);
    if (items != NULL)
        search->waiting.items = items;
    if (visits == NULL || sides == NULL || items == NULL)
        return 1;
    search->space = space;
    return 0;
}

static inline double squared(const double *a, const double *b, size_t n)
{
    double four[4] = {0.0, 0.0, 0.0, 0.0};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t j = 0; j < 4; j++)
            four[j] += (a[i + j] - b[i + j]) * (a[i + j] - b[i + j]);
    double sum = four[0] + four[1] + four[2] + four[3];
    for (; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* Takes a leaf's points into the k nearest; returns the distance that still interests. */
static double scan(const Index *index, const Cell *leaf, const double *x, size_t k, Heap *near,
                   double bound)
{
    const size_t dimensions = index->dimensions;
    for (uint32_t i = leaf->less; i < leaf->greater; i++) {
        const double *point = index->points + i * dimensions;
        double distance;
        if (dimensions == 2)
            distance = (point[0] - x[0]) * (point[0] - x[0]) + (point[1] - x[1]) * (point[1] - x[1]);
        else
            distance = squared(point, x, dimensions);
        if (distance < bound) {
            if (near->n == k)
                pop(near);
            sift_up(near, (Item){-distance, index->indices[i]});
            if (near->n == k)
                bound = -near->items[0].priority;
        }
    }
    return bound;
}

/* Leaves the k nearest of x in search->near, the farthest on top; 1 when memory is short. */
static int search_point(const Index *index, const double *x, size_t k, Search *search)
{
    const size_t d = index->dimensions;
    double bound = INFINITY;
    search->near.n = search->waiting.n = 0;
    search->n_visits = 1;
    size_t at = 0;
    search->visits[0] = (Visit){0, 0.0};
    for (size_t i = 0; i < d; i++) {
        const double over = x[i] - index->high[i], under = index->low[i] - x[i];
        const double larger = over > under ? over : under, side = larger > 0.0 ? larger : 0.0;
        search->sides[i] = side * side;
        search->visits[0].distance += side * side;
    }
    for (;;) {
        Visit *here = &search->visits[at];
        const Cell *cell = &index->cells[here->cell];
        if (cell->axis < 0) {
            bound = scan(index, cell, x, k, &search->near, bound);
            if (search->waiting.n == 0)
                return 0;
            at = (size_t)pop(&search->waiting).content;
            continue;
        }
        if (here->distance > bound)
            return 0;
        if (search->n_visits == search->space && grow(search, d))
            return 1;
        here = &search->visits[at];
        const size_t other = search->n_visits++;
        Visit *there = &search->visits[other];
        double *sides = search->sides + other * d;
        memcpy(sides, search->sides + at * d, d * sizeof *sides);
        const double gap = x[cell->axis] - cell->split;
        there->cell = gap < 0.0 ? cell->greater : cell->less;
        here->cell = gap < 0.0 ? cell->less : cell->greater;
        there->distance = here->distance + (gap * gap - sides[cell->axis]);
        sides[cell->axis] = gap * gap;
        size_t far = other;
        if (here->distance > there->distance) {
            far = at;
            at = other;
        }
        if (search->visits[far].distance <= bound)
            sift_up(&search->waiting, (Item){search->visits[far].distance, (int64_t)far});
    }
}

static int nearest_rows(const Index *index, const double *points, size_t n, size_t k,
                        int64_t *nearest, double *distances)
{
    Search search = {0};
    search.near.items = malloc(k * sizeof(Item));
    int failed = search.near.items == NULL || grow(&search, index->dimensions);
    for (size_t row = 0; row < n && !failed; row++) {
        failed = search_point(index, points + row * index->dimensions, k, &search);
        for (size_t i = search.near.n; i-- > 0 && !failed;) {
            const Item item = pop(&search.near);
            nearest[row * k + i] = item.content;
            distances[row * k + i] = sqrt(-item.priority);
        }
    }
    free(search.near.items);
    free(search.waiting.items);
    free(search.visits);
    free(search.sides);
    return failed;
}

/* Writes the min(64, size) nearest training rows of n points, nearest first, the last one repeated
   up to 64: their positions and distances (n, 64). With an attribute of resemblance also how far
   they are in it (n, 64), and the exponents of the resemblance kernels (n, bandwidths, 64).
   Returns 1 when memory is short, 2 when a point is not finite. */
int tasador_nearest(const Index *index, const double *points, const double *similar, size_t n,
                    int64_t *nearest, double *distances, double *gaps, double *exponents)
{
    const size_t k = index->size < NEIGHBOURS ? index->size : NEIGHBOURS;
    for (size_t i = 0; i < n * index->dimensions; i++)
        if (!isfinite(points[i]))
            return 2;
    if (nearest_rows(index, points, n, k, nearest, distances))
        return 1;
    for (size_t row = n; row-- > 0 && k < NEIGHBOURS;)
        for (size_t i = NEIGHBOURS; i-- > 0;) {
            const size_t from = row * k + (i < k ? i : k - 1);
            nearest[row * NEIGHBOURS + i] = nearest[from];
            distances[row * NEIGHBOURS + i] = distances[from];
        }
    for (size_t row = 0; row < n && similar != NULL; row++)
        for (size_t i = 0; i < NEIGHBOURS; i++) {
            const size_t at = row * NEIGHBOURS + i;
            const double gap = index->similar[nearest[at]] - similar[row];
            gaps[at] = gap;
            for (size_t b = 0; b < index->bandwidths; b++)
                exponents[(row * index->bandwidths + b) * NEIGHBOURS + i] = gap * gap * index->factors[b];
        }
    return 0;
}

/* Writes a row's features; `kernels` are the exponentials, NULL without an attribute. */
static void sum_row(const Index *index, const int64_t *nearest, const double *distances,
                    const double *gaps, const double *kernels, double *out)
{
    const size_t likes = kernels == NULL ? 0 : index->bandwidths, means = 1 + likes;
    const size_t contexts = index->contexts, gap_row = 2 * means, context_row = gap_row + 1;
    const size_t spread_row = context_row + contexts, series = spread_row + 2;
    double sums[MOST_SERIES], terms[MOST_SERIES], at[STEPS][MOST_SERIES];
    const double first = index->target[nearest[0]];
    size_t step = 0;
    for (size_t i = 0; i < NEIGHBOURS; i++) {
        const double target = index->target[nearest[i]], weight = 1.0 / (distances[i] + index->softening);
        const double *context = index->context + (size_t)nearest[i] * contexts;
        terms[0] = weight;
        for (size_t b = 0; b < likes; b++)
            terms[1 + b] = weight * (kernels[b * NEIGHBOURS + i] + 1e-6);
        for (size_t m = 0; m < means; m++)
            terms[means + m] = terms[m] * target;
        terms[gap_row] = likes ? weight * gaps[i] : 0.0;
        for (size_t c = 0; c < contexts; c++)
            terms[context_row + c] = context[c];
        terms[spread_row] = target - first;
        terms[spread_row + 1] = (target - first) * (target - first);
        for (size_t s = 0; s < series; s++)
            sums[s] = i ? sums[s] + terms[s] : terms[s];
        if (i + 1 == (size_t)1 << step)
            memcpy(at[step++], sums, series * sizeof *sums);
    }
    for (size_t s = 0; s < STEPS; s++)
        *out++ = at[s][means] / at[s][0];
    for (size_t b = 1; b <= likes; b++)
        for (size_t s = WIDE; s < STEPS; s++)
            *out++ = at[s][means + b] / at[s][b];
    for (size_t s = WIDE; s < STEPS && likes; s++)
        *out++ = at[s][means] / at[s][0] - index->slope * (at[s][gap_row] / at[s][0]);
    for (size_t c = 0; c < contexts; c++)
        *out++ = at[NEAREST_STEP][context_row + c] / 16.0;
    const double offset = at[NEAREST_STEP][spread_row] / 16.0;
    const double variance = at[NEAREST_STEP][spread_row + 1] / 16.0 - offset * offset;
    *out++ = sqrt(variance < 0.0 ? 0.0 : variance);
    *out++ = distances[0];
    *out++ = distances[3];
    *out++ = distances[15];
}

/* Writes the features of n rows, `stride` doubles apart; returns 3 when there are too many. */
int tasador_comparables(const Index *index, const int64_t *nearest, const double *distances,
                        const double *gaps, const double *kernels, size_t n, double *out,
                        size_t stride)
{
    if (2 * (1 + index->bandwidths) + index->contexts + 3 > MOST_SERIES)
        return 3;
    for (size_t row = 0; row < n; row++)
        sum_row(index, nearest + row * NEIGHBOURS, distances + row * NEIGHBOURS,
                kernels == NULL ? NULL : gaps + row * NEIGHBOURS,
                kernels == NULL ? NULL : kernels + row * NEIGHBOURS * index->bandwidths,
                out + row * stride);
    return 0;
}
