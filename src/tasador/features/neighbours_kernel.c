/* Comparables of rows: the nearest training rows, and the sums over them; see comparables.py.
 *
 * Training rows often lie equally far away, and which of them are taken, in which order, shows in
 * the features: they are taken by their position. That does not depend on how the tree is gone
 * through. It is scipy's cKDTree; all points within a bound are gathered, and sorted once.
 */
#include <float.h>
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
#define BLOCK 16       /* points of a leaf that are looked at before the room for them is */
#define ROOM 145       /* candidates: twice the neighbours and a block, and one to write over */
#define BUCKETS 256    /* of distances */

typedef struct {
    double split;
    int32_t axis;           /* -1 for a leaf */
    uint32_t less, greater; /* children; first point and end of a leaf */
    uint32_t earliest;      /* the least training row in it */
} Cell;

typedef struct {
    const Cell *cells;
    const double *points;   /* in the leaves' order */
    const int64_t *indices; /* the training row of each */
    const double *low, *high; /* the box around all points */
    const double *target, *similar, *context; /* by training row; similar may be NULL */
    const double *factors;  /* of the squared gap, one per bandwidth */
    const double *prior;    /* the features where nothing informs a row */
    uint64_t size, dimensions, contexts, bandwidths, n_cells;
    double slope, softening;
} Index;

/* Which training rows may inform a row: those before `limit`, and none that is the row itself. */
typedef struct {
    int64_t limit;
    const double *similar, *context; /* the row's own; context is NULL where it may find itself */
} Allowed;

/* A cell waiting to be searched; its squared distances along the axes stand in `sides`. */
typedef struct {
    uint32_t cell;
    double distance;
} Visit;

typedef struct {
    Visit *visits;
    double *sides;
    size_t n_visits, space;
} Search;

static int grow(Search *search, size_t dimensions)
{
    const size_t space = search->space ? 2 * search->space : 256;
    Visit *visits = realloc(search->visits, space * sizeof *visits);
    if (visits != NULL)
        search->visits = visits;
    double *sides = realloc(search->sides, space * dimensions * sizeof *sides);
    if (sides != NULL)
        search->sides = sides;
    if (visits == NULL || sides == NULL)
        return 1;
    search->space = space;
    return 0;
}

/* The squares are added in the order of the axes, as numpy's definition does. */
static inline double squared(const double *a, const double *b, size_t n)
{
    double sum = (a[0] - b[0]) * (a[0] - b[0]);
    for (size_t i = 1; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* Whether a training row at no distance is the row itself, as far as can be told. */
static int is_own(const Index *index, const double *point, int64_t position, const double *x, size_t d,
                  const Allowed *allowed)
{
    for (size_t i = 0; i < d; i++)
        if (point[i] != x[i])
            return 0;
    for (size_t c = 0; c < index->contexts; c++)
        if (index->context[(size_t)position * index->contexts + c] != allowed->context[c])
            return 0;
    return allowed->similar == NULL || index->similar[position] == *allowed->similar;
}

/* Starts at the tree's root. */
static inline void start(const Index *index, const double *x, size_t d, Search *search)
{
    search->n_visits = 1;
    search->visits[0] = (Visit){0, 0.0};
    for (size_t i = 0; i < d; i++) {
        const double over = x[i] - index->high[i], under = index->low[i] - x[i];
        const double larger = over > under ? over : under, side = larger > 0.0 ? larger : 0.0;
        search->sides[i] = side * side;
        search->visits[0].distance += side * side;
    }
}

typedef struct {
    double distances[ROOM];
    int64_t positions[ROOM];
} Found;

/* Training rows that may be among the nearest: none is farther than `bound`, a squared distance. */
typedef struct {
    Found found[2]; /* one of them has the candidates */
    int which;
    double bound;
    size_t n;
} Candidates;

/* Drops those of the candidates that are not among the k nearest, and brings the others near to their
   order: each bucket of distances follows the one before. The last bucket stays whole. Squared
   distances in a plane are spread evenly where its points are, so that a bucket has few. */
static void keep_nearest(Candidates *candidates, size_t k)
{
    const size_t n = candidates->n;
    const Found *from = &candidates->found[candidates->which];
    Found *to = &candidates->found[candidates->which ^= 1];
    uint8_t bucket[ROOM];
    uint16_t places[BUCKETS] = {0};
    double most = candidates->bound;
    if (most == DBL_MAX) {
        most = 0.0;
        for (size_t i = 0; i < n; i++)
            most = from->distances[i] > most ? from->distances[i] : most;
    }
    const double wanted = (BUCKETS - 1) / most, scale = wanted <= DBL_MAX ? wanted : 0.0;
    for (size_t i = 0; i < n; i++) {
        bucket[i] = (uint8_t)(from->distances[i] * scale);
        places[bucket[i]]++;
    }
    size_t kept = 0, last = 0;
    for (size_t b = 0; b < BUCKETS && kept < k; b++) {
        const size_t here = places[b];
        places[b] = (uint16_t)kept;
        kept += here;
        last = b;
    }
    for (size_t i = 0; i < n; i++) {
        /* written over by what belongs there: a branch could not be predicted */
        const size_t place = bucket[i] <= last ? places[bucket[i]]++ : ROOM - 1;
        to->distances[place] = from->distances[i];
        to->positions[place] = from->positions[i];
    }
    candidates->n = kept;
}

/* Sorts the nearest candidates by distance, equal ones by position. */
static void sort_nearest(Candidates *candidates, size_t k)
{
    keep_nearest(candidates, k);
    Found *found = &candidates->found[candidates->which];
    for (size_t i = 1; i < candidates->n; i++) {
        const double distance = found->distances[i];
        const int64_t position = found->positions[i];
        size_t to = i;
        for (; to > 0; to--) {
            const double before = found->distances[to - 1];
            if (before < distance || (before == distance && found->positions[to - 1] < position))
                break;
            found->distances[to] = before;
            found->positions[to] = found->positions[to - 1];
        }
        found->distances[to] = distance;
        found->positions[to] = position;
    }
}

/* Takes a leaf's points that are allowed and within the bound; where there is no room for them, the
   bound becomes the distance of the k-th. */
static inline void gather(const Index *index, const Cell *leaf, const double *x, size_t dimensions,
                          size_t k, const Allowed *allowed, Candidates *candidates)
{
    for (uint32_t first = leaf->less; first < leaf->greater; first += BLOCK) {
        const uint32_t end = leaf->greater - first < BLOCK ? leaf->greater : first + BLOCK;
        if (candidates->n + BLOCK > ROOM) {
            sort_nearest(candidates, k);
            candidates->n = k;
            candidates->bound = candidates->found[candidates->which].distances[k - 1];
        }
        Found *found = &candidates->found[candidates->which];
        size_t n = candidates->n;
        for (uint32_t i = first; i < end; i++) {
            const double *point = index->points + i * dimensions;
            const int64_t position = index->indices[i];
            const double distance = squared(point, x, dimensions);
            if (distance == 0.0 && allowed->context != NULL
                && is_own(index, point, position, x, dimensions, allowed))
                continue;
            /* kept or written over by the next one: a branch could not be predicted */
            found->distances[n] = distance;
            found->positions[n] = position;
            n += (size_t)((distance <= candidates->bound) & (position < allowed->limit));
        }
        candidates->n = n;
    }
}

/* Leaves all allowed training rows within a distance of x in `candidates`, sorted, or as many of the
   nearest as are wanted; 1 when memory is short. A cell is given up only where it is farther by more
   than its distance may have been rounded. */
static inline int search_allowed(const Index *index, const double *x, size_t d, size_t k,
                                 double within, const Allowed *allowed, Search *search,
                                 Candidates *candidates)
{
    const double slack = 1.0 + 1e-9;
    candidates->n = 0;
    candidates->which = 0;
    candidates->bound = within;
    start(index, x, d, search);
    while (search->n_visits > 0) {
        const size_t at = search->n_visits - 1;
        Visit *here = &search->visits[at];
        const Cell *cell = &index->cells[here->cell];
        if (here->distance > candidates->bound * slack || (int64_t)cell->earliest >= allowed->limit) {
            search->n_visits--;
            continue;
        }
        if (cell->axis < 0) {
            search->n_visits--;
            gather(index, cell, x, d, k, allowed, candidates);
            continue;
        }
        if (search->n_visits == search->space && grow(search, d))
            return 1;
        /* the farther child takes the cell's place, the nearer one is searched next */
        here = &search->visits[at];
        Visit *next = &search->visits[search->n_visits++];
        double *sides = search->sides + at * d;
        memcpy(sides + d, sides, d * sizeof *sides);
        const double gap = x[cell->axis] - cell->split;
        *next = (Visit){gap < 0.0 ? cell->less : cell->greater, here->distance};
        here->cell = gap < 0.0 ? cell->greater : cell->less;
        here->distance += gap * gap - sides[cell->axis];
        sides[cell->axis] = gap * gap;
    }
    sort_nearest(candidates, k);
    return 0;
}

/* Writes the k nearest of the sorted candidates; of fewer the last one repeated, infinitely far where
   there is none. */
static void write_nearest(const Candidates *candidates, size_t k, int64_t *nearest, double *distances)
{
    const Found *found = &candidates->found[candidates->which];
    const size_t n = candidates->n < k ? candidates->n : k;
    for (size_t i = 0; i < n; i++) {
        nearest[i] = found->positions[i];
        distances[i] = sqrt(found->distances[i]);
    }
    for (size_t i = n; i < k; i++) {
        nearest[i] = n ? nearest[n - 1] : 0;
        distances[i] = n ? distances[n - 1] : INFINITY;
    }
}

/* The rows that are asked about. */
typedef struct {
    const double *points, *similar, *context;
    const int64_t *limits; /* NULL where all training rows come before them */
    size_t n;
} Asked;

/* Whether a row lies where the one before it does, and may be told the same: then it has the same
   neighbours. */
static int same_place(const Index *index, const Asked *asked, size_t row)
{
    const size_t d = index->dimensions, c = index->contexts;
    if (row == 0 || memcmp(asked->points + row * d, asked->points + (row - 1) * d, d * sizeof(double)))
        return 0;
    if (asked->limits != NULL && asked->limits[row] != asked->limits[row - 1])
        return 0;
    return asked->context == NULL
           || (memcmp(asked->context + row * c, asked->context + (row - 1) * c, c * sizeof(double)) == 0
               && (asked->similar == NULL || asked->similar[row] == asked->similar[row - 1]));
}

/* Neighbours of rows that only some training rows may inform. The row searched before tells how far to
   look: its farthest neighbour is no farther from this row than the way from one row to the other and
   from there on. Some of its neighbours may not inform this row: where that leaves too few, the search
   is repeated without a bound. */
static int nearest_allowed(const Index *index, const Asked *asked, size_t k, Search *search,
                           int64_t *nearest, double *distances)
{
    const size_t d = index->dimensions;
    Candidates candidates;
    size_t last = SIZE_MAX;
    for (size_t row = 0; row < asked->n; row++) {
        const double *x = asked->points + row * d;
        if (same_place(index, asked, row))
            continue;
        const Allowed allowed = {
            asked->limits == NULL ? (int64_t)index->size : asked->limits[row],
            asked->similar == NULL ? NULL : asked->similar + row,
            asked->context == NULL ? NULL : asked->context + row * index->contexts,
        };
        double within = DBL_MAX;
        if (last < row && (asked->limits == NULL || asked->limits[last] <= asked->limits[row])) {
            const double way = sqrt(squared(x, asked->points + last * d, d));
            const double from_there = distances[last * k + k - 1], farthest = way + from_there;
            /* from a row far away it would tell less than the first cells do */
            if (way <= from_there && farthest * farthest * (1.0 + 1e-9) < DBL_MAX)
                within = farthest * farthest * (1.0 + 1e-9);
        }
        for (;; within = DBL_MAX) {
            if (d == 2 ? search_allowed(index, x, 2, k, within, &allowed, search, &candidates)
                       : search_allowed(index, x, d, k, within, &allowed, search, &candidates))
                return 1;
            if (candidates.n >= k || within == DBL_MAX)
                break;
        }
        write_nearest(&candidates, k, nearest + row * k, distances + row * k);
        last = row;
    }
    return 0;
}

static int nearest_rows(const Index *index, const Asked *asked, size_t k, int64_t *nearest,
                        double *distances)
{
    Search search = {0};
    int failed = grow(&search, index->dimensions);
    failed = failed || nearest_allowed(index, asked, k, &search, nearest, distances);
    for (size_t row = 1; row < asked->n && !failed; row++)
        if (same_place(index, asked, row)) {
            memcpy(nearest + row * k, nearest + (row - 1) * k, k * sizeof *nearest);
            memcpy(distances + row * k, distances + (row - 1) * k, k * sizeof *distances);
        }
    free(search.visits);
    free(search.sides);
    return failed;
}

/* Whether sums over neighbours have their place on the stack. */
static int too_many(const Index *index)
{
    return index->bandwidths > MOST_SERIES || index->contexts > MOST_SERIES
           || 2 * (1 + index->bandwidths) + index->contexts + 3 > MOST_SERIES;
}

/* Returns 0 for an index that leads nowhere outside of its arrays, else 3: asked once, when it is
   built. Children stand behind their parent, so that no search goes round in circles. */
int tasador_check_index(const Index *index)
{
    if (index->size == 0 || index->size >= UINT32_MAX || index->dimensions == 0 || index->n_cells == 0
        || too_many(index))
        return 3;
    for (uint64_t i = 0; i < index->size; i++)
        if (index->indices[i] < 0 || (uint64_t)index->indices[i] >= index->size)
            return 3;
    for (uint64_t i = 0; i < index->n_cells; i++) {
        const Cell *cell = &index->cells[i];
        if (cell->axis < 0 ? cell->less > cell->greater || cell->greater > index->size
                           : (uint64_t)cell->axis >= index->dimensions || cell->less <= i
                                 || cell->greater <= i || cell->less >= index->n_cells
                                 || cell->greater >= index->n_cells)
            return 3;
    }
    return 0;
}

/* Writes the min(64, size) nearest training rows of n points, nearest first, the last one repeated
   up to 64: their positions and distances (n, 64). With an attribute of resemblance also how far
   they are in it (n, 64), and the exponents of the resemblance kernels (n, bandwidths, 64).
   Only training rows before a row's limit (n,) inform it, and with the rows' context (n, contexts) none
   that is the row itself; where that leaves none, all are infinitely far. `limits` and `context` may be
   NULL. Returns 1 when memory is short, 2 when a point is not finite, 3 when the points have other
   dimensions than the index. */
int tasador_nearest(const Index *index, const double *points, size_t dimensions,
                    const double *similar, const int64_t *limits, const double *context, size_t n,
                    int64_t *nearest, double *distances, double *gaps, double *exponents)
{
    const Asked asked = {points, similar, context, limits, n};
    const size_t k = index->size < NEIGHBOURS ? index->size : NEIGHBOURS;
    if (dimensions != index->dimensions || dimensions == 0 || k == 0 || too_many(index))
        return 3;
    for (size_t i = 0; i < n * index->dimensions; i++)
        if (!isfinite(points[i]))
            return 2;
    if (nearest_rows(index, &asked, k, nearest, distances))
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

/* Sums over the first 1, 2, 4 ... 64 neighbours, in `at`: of the weights, by distance and by each
   resemblance as well; of the targets times those; and of the gaps times the first of them. */
static inline void sum_weighted(const Index *index, const int64_t *nearest, const double *distances,
                                const double *gaps, const double *kernels, size_t likes,
                                double at[STEPS][MOST_SERIES])
{
    const size_t means = 1 + likes, series = 2 * means + 1;
    double sums[MOST_SERIES], terms[MOST_SERIES];
    for (size_t step = 0, i = 0; step < STEPS; step++) {
        for (; i < (size_t)1 << step; i++) {
            const double target = index->target[nearest[i]];
            const double weight = 1.0 / (distances[i] + index->softening);
            terms[0] = weight;
            for (size_t b = 0; b < likes; b++)
                terms[1 + b] = weight * (kernels[b * NEIGHBOURS + i] + 1e-6);
            for (size_t m = 0; m < means; m++)
                terms[means + m] = terms[m] * target;
            terms[2 * means] = likes ? weight * gaps[i] : 0.0;
            for (size_t s = 0; s < series; s++)
                sums[s] = i ? sums[s] + terms[s] : terms[s];
        }
        for (size_t s = 0; s < series; s++)
            at[step][s] = sums[s];
    }
}

/* Sums over the first 16 neighbours: of the attributes, of what targets differ by from the first
   one's, and of the squares of that. */
static inline void sum_nearest(const Index *index, const int64_t *nearest, size_t contexts, double *sums)
{
    const double first = index->target[nearest[0]];
    for (size_t i = 0; i < (size_t)1 << NEAREST_STEP; i++) {
        const double *context = index->context + (size_t)nearest[i] * contexts;
        const double off = index->target[nearest[i]] - first;
        for (size_t c = 0; c < contexts; c++)
            sums[c] = i ? sums[c] + context[c] : context[c];
        sums[contexts] = i ? sums[contexts] + off : off;
        sums[contexts + 1] = i ? sums[contexts + 1] + off * off : off * off;
    }
}

/* Writes a row's features; `kernels` are the exponentials, NULL without an attribute. */
static void sum_row(const Index *index, const int64_t *nearest, const double *distances,
                    const double *gaps, const double *kernels, double *out)
{
    const size_t likes = kernels == NULL ? 0 : index->bandwidths, means = 1 + likes;
    const size_t contexts = index->contexts, gap_row = 2 * means;
    double near[MOST_SERIES], at[STEPS][MOST_SERIES];
    if (likes == 2) /* what there is; a constant keeps the sums in registers */
        sum_weighted(index, nearest, distances, gaps, kernels, 2, at);
    else
        sum_weighted(index, nearest, distances, gaps, kernels, likes, at);
    sum_nearest(index, nearest, contexts, near);
    for (size_t s = 0; s < STEPS; s++)
        *out++ = at[s][means] / at[s][0];
    for (size_t b = 1; b <= likes; b++)
        for (size_t s = WIDE; s < STEPS; s++)
            *out++ = at[s][means + b] / at[s][b];
    for (size_t s = WIDE; s < STEPS && likes; s++)
        *out++ = at[s][means] / at[s][0] - index->slope * (at[s][gap_row] / at[s][0]);
    for (size_t c = 0; c < contexts; c++)
        *out++ = near[c] / 16.0;
    const double offset = near[contexts] / 16.0;
    const double variance = near[contexts + 1] / 16.0 - offset * offset;
    *out++ = sqrt(variance < 0.0 ? 0.0 : variance);
    *out++ = distances[0];
    *out++ = distances[3];
    *out++ = distances[15];
}

/* How many features `sum_row` writes. */
static uint64_t features_of(const Index *index, uint64_t likes)
{
    return STEPS + (likes + (likes > 0)) * (STEPS - WIDE) + index->contexts + 4;
}

/* Writes the features of n rows of `width`, `stride` doubles apart. Returns 3, and writes nothing,
   when that is not how many there are. */
int tasador_comparables(const Index *index, const int64_t *nearest, const double *distances,
                        const double *gaps, const double *kernels, size_t n, double *out,
                        size_t width, size_t stride)
{
    if (too_many(index) || stride < width
        || width != features_of(index, kernels == NULL ? 0 : index->bandwidths))
        return 3;
    for (size_t row = 0; row < n; row++) {
        if (isinf(distances[row * NEIGHBOURS])) {
            memcpy(out + row * stride, index->prior, width * sizeof *out);
            continue;
        }
        sum_row(index, nearest + row * NEIGHBOURS, distances + row * NEIGHBOURS,
                kernels == NULL ? NULL : gaps + row * NEIGHBOURS,
                kernels == NULL ? NULL : kernels + row * NEIGHBOURS * index->bandwidths,
                out + row * stride);
    }
    return 0;
}
