/* Comparables of rows: the nearest training rows, and the sums over them; see comparables.py.
 *
 * Training rows often lie equally far away, and which of them are taken, in which order, shows in
 * the features. Where only some training rows may inform a row (sales before it, all but itself),
 * equally near ones are taken by their position. That order does not depend on how the tree is gone
 * through: all points within a bound are gathered, and sorted once.
 *
 * An index of all rows takes equally near ones as scipy's cKDTree does. There the search goes through
 * scipy's tree with the same two heaps in the same order; what differs is that a leaf's points lie
 * side by side, and that rows are searched, gathered and summed without leaving C.
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
#define LANES 4        /* rows whose heaps are emptied in step */
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
    const double *prior;    /* the features where nothing informs a row; NULL where all rows do */
    uint64_t size, dimensions, contexts, bandwidths, n_cells;
    double slope, softening;
} Index;

/* Which training rows may inform a row: those before `limit`, and none that is the row itself. */
typedef struct {
    int64_t limit;
    const double *similar, *context; /* the row's own; context is NULL where it may find itself */
} Allowed;

typedef struct {
    double priority;
    int64_t content;
} Item;

typedef struct {
    Item *items;
    size_t n, space;
} Heap;

/* The nearest so far, the farthest on top: the same heap, made for its fixed size. A squared distance
   is compared by its bits, which order like the number, since none is negative; behind the last item
   are NOBODYs, so that every path through it is of the same length. Nothing here branches on a
   distance: that could not be predicted. */
typedef struct {
    int64_t keys[NEIGHBOURS + 1], contents[NEIGHBOURS + 1];
    size_t n;
} Near;

#define NOBODY (-1)

/* A cell waiting to be searched; its distances along the axes stand in the search's `sides`. */
typedef struct {
    uint32_t cell;
    double distance;
} Visit;

typedef struct {
    Heap waiting;
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

/* How many steps lead from the top to the last of n items, down the left side. */
static size_t levels_of(size_t n)
{
    size_t levels = 0;
    while ((size_t)2 << levels <= n)
        levels++;
    return levels;
}

/* Changes the items' places unless they are to stay. */
static inline void order(int stay, int64_t *key, int64_t *other, int64_t *content, int64_t *whose)
{
    const int64_t mask = (int64_t)stay - 1, keys = (*key ^ *other) & mask;
    const int64_t contents = (*content ^ *whose) & mask;
    *key ^= keys;
    *other ^= keys;
    *content ^= contents;
    *whose ^= contents;
}

/* A step of an item down from `at`: the greater of it and of the greater child stays there, the other
   one goes on. Below where the item stays this changes nothing. */
static inline size_t sink(Near *near, size_t at, int64_t *key, int64_t *content)
{
    size_t child = 2 * at + 1;
    child += near->keys[child] < near->keys[child + 1];
    int64_t other = near->keys[child], whose = near->contents[child];
    order(*key < other, key, &other, content, &whose);
    near->keys[at] = other;
    near->contents[at] = whose;
    return child;
}

/* Puts an item behind the last and lets it rise: above where it stays this changes nothing. */
static inline void push(Near *near, int64_t key, int64_t content)
{
    for (size_t at = near->n++; ; at = (at - 1) / 2) {
        if (at == 0) {
            near->keys[0] = key;
            near->contents[0] = content;
            return;
        }
        int64_t other = near->keys[(at - 1) / 2], whose = near->contents[(at - 1) / 2];
        order(other < key, &key, &other, &content, &whose);
        near->keys[at] = other;
        near->contents[at] = whose;
    }
}

/* Takes the farthest away. */
static inline void pop_farthest(Near *near)
{
    const size_t n = --near->n;
    int64_t key = near->keys[n], content = near->contents[n];
    size_t at = 0;
    near->keys[n] = NOBODY;
    for (size_t level = levels_of(n); level > 0; level--)
        at = sink(near, at, &key, &content);
    near->keys[at] = key;
    near->contents[at] = content;
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

/* Takes a leaf's points into the k nearest; returns the distance that still interests. */
static inline double scan(const Index *index, const Cell *leaf, const double *x, size_t dimensions,
                          size_t k, Near *near, double bound)
{
    for (uint32_t i = leaf->less; i < leaf->greater; i++) {
        const double *point = index->points + i * dimensions;
        double distance;
        if (dimensions == 2)
            distance = (point[0] - x[0]) * (point[0] - x[0]) + (point[1] - x[1]) * (point[1] - x[1]);
        else
            distance = squared(point, x, dimensions);
        if (distance < bound) {
            int64_t bits;
            memcpy(&bits, &distance, sizeof bits);
            if (near->n == k)
                pop_farthest(near);
            push(near, bits, index->indices[i]);
            if (near->n == k)
                memcpy(&bound, &near->keys[0], sizeof bound);
        }
    }
    return bound;
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

/* Leaves the k nearest of x in `near`, the farthest on top; 1 when memory is short. */
static inline int search_point(const Index *index, const double *x, size_t d, size_t k, Near *near,
                               Search *search)
{
    double bound = INFINITY;
    near->n = search->waiting.n = 0;
    memset(near->keys, 0xff, sizeof near->keys);
    start(index, x, d, search);
    size_t at = 0;
    for (;;) {
        Visit *here = &search->visits[at];
        const Cell *cell = &index->cells[here->cell];
        if (cell->axis < 0) {
            bound = scan(index, cell, x, d, k, near, bound);
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

/* Empties some heaps of k, the nearest last, in step: one waits for its memory while others compare. */
static inline void drain(Near *heaps, size_t lanes, size_t k, const size_t *rows, int64_t *nearest,
                         double *distances)
{
    size_t levels = levels_of(k);
    for (size_t n = k; n-- > 0;) {
        if (levels > 0 && n < (size_t)1 << levels)
            levels--;
        int64_t key[LANES], content[LANES];
        size_t at[LANES] = {0};
        for (size_t lane = 0; lane < lanes; lane++) {
            double squared;
            memcpy(&squared, &heaps[lane].keys[0], sizeof squared);
            nearest[rows[lane] * k + n] = heaps[lane].contents[0];
            distances[rows[lane] * k + n] = sqrt(squared);
            key[lane] = heaps[lane].keys[n];
            content[lane] = heaps[lane].contents[n];
            heaps[lane].keys[n] = NOBODY;
        }
        for (size_t level = 0; level < levels; level++)
            for (size_t lane = 0; lane < lanes; lane++)
                at[lane] = sink(&heaps[lane], at[lane], &key[lane], &content[lane]);
        for (size_t lane = 0; lane < lanes; lane++) {
            heaps[lane].keys[at[lane]] = key[lane];
            heaps[lane].contents[at[lane]] = content[lane];
        }
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
   bound becomes the distance of the k-th. Squares are added in the order of the axes, as numpy's
   definition does. */
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
            double distance = (point[0] - x[0]) * (point[0] - x[0]);
            for (size_t j = 1; j < dimensions; j++)
                distance += (point[j] - x[j]) * (point[j] - x[j]);
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
            const double way = sqrt(squared(x, asked->points + last * d, d)) + distances[last * k + k - 1];
            within = way * way * (1.0 + 1e-9) < DBL_MAX ? way * way * (1.0 + 1e-9) : DBL_MAX;
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

/* Neighbours of rows that all training rows inform. */
static int nearest_of_all(const Index *index, const Asked *asked, size_t k, Search *search,
                          int64_t *nearest, double *distances)
{
    const size_t d = index->dimensions;
    Near *near = calloc(LANES, sizeof *near);
    int failed = near == NULL;
    size_t rows[LANES], lanes = 0;
    for (size_t row = 0; row < asked->n && !failed; row++) {
        const double *point = asked->points + row * d;
        if (same_place(index, asked, row))
            continue;
        failed = d == 2 ? search_point(index, point, 2, k, &near[lanes], search)
                        : search_point(index, point, d, k, &near[lanes], search);
        rows[lanes++] = row;
        if (lanes == LANES) {
            drain(near, LANES, k, rows, nearest, distances);
            lanes = 0;
        }
    }
    for (size_t lane = 0; lane < lanes && !failed; lane++)
        drain(near + lane, 1, k, rows + lane, nearest, distances);
    free(near);
    return failed;
}

static int nearest_rows(const Index *index, const Asked *asked, size_t k, int64_t *nearest,
                        double *distances)
{
    Search search = {0};
    int failed = grow(&search, index->dimensions);
    if (!failed)
        failed = (index->prior != NULL ? nearest_allowed : nearest_of_all)(index, asked, k, &search,
                                                                          nearest, distances);
    for (size_t row = 1; row < asked->n && !failed; row++)
        if (same_place(index, asked, row)) {
            memcpy(nearest + row * k, nearest + (row - 1) * k, k * sizeof *nearest);
            memcpy(distances + row * k, distances + (row - 1) * k, k * sizeof *distances);
        }
    free(search.waiting.items);
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
   In an index with a prior, only training rows before a row's limit (n,) inform it, and with the rows'
   context (n, contexts) none that is the row itself; where that leaves none, all are infinitely far.
   `limits` and `context` may be NULL. Returns 1 when memory is short, 2 when a point is not finite, 3 when the points have other
   dimensions than the index. */
int tasador_nearest(const Index *index, const double *points, size_t dimensions,
                    const double *similar, const int64_t *limits, const double *context, size_t n,
                    int64_t *nearest, double *distances, double *gaps, double *exponents)
{
    const Asked asked = {points, similar, context, limits, n};
    const size_t k = index->size < NEIGHBOURS ? index->size : NEIGHBOURS;
    if (dimensions != index->dimensions || dimensions == 0 || k == 0 || too_many(index)
        || (index->prior == NULL && (limits != NULL || context != NULL)))
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
        if (index->prior != NULL && isinf(distances[row * NEIGHBOURS])) {
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
