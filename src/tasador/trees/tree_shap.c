/* Shapley values of one row for leaves with equally many features on their paths; the formula is in
 * contributions.py. Conditions of one leaf lie side by side, so that what a leaf needs is read once.
 *
 * The product of all factors but one is that of those before it times that of those behind it: no
 * division, and no branch that could be mispredicted. Two points go at a time.
 */
#include <stddef.h>
#include <stdint.h>

#define MOST_FEATURES 32
#define MOST_PAIRS (MOST_FEATURES / 4)

typedef double Pair __attribute__((vector_size(16), aligned(8)));

typedef struct {
    const int32_t *feature; /* (n_leaves, length), each below `width` */
    const double *low, *high, *share;
    const uint8_t *gap;
    const double *value; /* (n_leaves) */
    const double *points, *weights; /* (2 * n_pairs), the last of weight 0 when they are odd */
    uint32_t length, n_leaves, n_pairs, width;
} Paths;

int tasador_check_paths(const Paths *groups, size_t n_groups);
int tasador_contributions(const Paths *groups, size_t n_groups, const double *z, double *total,
                          size_t width);

static inline void add_leaf(const Paths *paths, size_t first, double value, uint32_t n,
                            const double *z, double *total)
{
    const Pair *points = (const Pair *)paths->points, *weights = (const Pair *)paths->weights;
    Pair before[MOST_FEATURES][MOST_PAIRS], factors[MOST_FEATURES][MOST_PAIRS], product[MOST_PAIRS];
    double rise[MOST_FEATURES];
    const uint32_t length = paths->length;
    for (uint32_t k = 0; k < n; k++)
        product[k] = value * weights[k];
    for (uint32_t i = 0; i < length; i++) {
        const double x = z[paths->feature[first + i]], share = paths->share[first + i];
        const int met = ((x != x) & (paths->gap[first + i] != 0))
                        | ((x > paths->low[first + i]) & (x <= paths->high[first + i]));
        rise[i] = (double)met - share;
        for (uint32_t k = 0; k < n; k++) {
            before[i][k] = product[k];
            factors[i][k] = share + rise[i] * points[k];
            product[k] *= factors[i][k];
        }
    }
    for (uint32_t k = 0; k < n; k++)
        product[k] = (Pair){1.0, 1.0};
    for (uint32_t i = length; i-- > 0;) {
        Pair sum = {0.0, 0.0};
        for (uint32_t k = 0; k < n; k++) {
            sum += before[i][k] * product[k];
            product[k] *= factors[i][k];
        }
        total[paths->feature[first + i]] += rise[i] * (sum[0] + sum[1]);
    }
}

/* Returns 0 for groups that lead nowhere outside of their arrays, else 3: asked once, when they are
   laid out. */
int tasador_check_paths(const Paths *groups, size_t n_groups)
{
    for (size_t g = 0; g < n_groups; g++) {
        const Paths *paths = &groups[g];
        if (paths->length == 0 || paths->length > MOST_FEATURES || paths->n_pairs > MOST_PAIRS)
            return 3;
        const size_t n = (size_t)paths->n_leaves * paths->length;
        for (size_t i = 0; i < n; i++)
            if (paths->feature[i] < 0 || (uint32_t)paths->feature[i] >= paths->width)
                return 3;
    }
    return 0;
}

/* Adds the contributions of all groups' leaves for the row `z` to `total`, both of `width` features.
   Returns 3, and adds nothing, when that is fewer than the leaves ask for. */
int tasador_contributions(const Paths *groups, size_t n_groups, const double *z, double *total,
                          size_t width)
{
    for (size_t g = 0; g < n_groups; g++)
        if (groups[g].width > width || groups[g].length > MOST_FEATURES
            || groups[g].n_pairs > MOST_PAIRS)
            return 3;
    for (size_t g = 0; g < n_groups; g++) {
        const Paths *paths = &groups[g];
        const size_t length = paths->length;
        /* a constant number of pairs lets the compiler keep them in registers */
        switch (paths->n_pairs) {
        case 1:
            for (uint32_t leaf = 0; leaf < paths->n_leaves; leaf++)
                add_leaf(paths, leaf * length, paths->value[leaf], 1, z, total);
            break;
        case 2:
            for (uint32_t leaf = 0; leaf < paths->n_leaves; leaf++)
                add_leaf(paths, leaf * length, paths->value[leaf], 2, z, total);
            break;
        case 3:
            for (uint32_t leaf = 0; leaf < paths->n_leaves; leaf++)
                add_leaf(paths, leaf * length, paths->value[leaf], 3, z, total);
            break;
        default:
            for (uint32_t leaf = 0; leaf < paths->n_leaves; leaf++)
                add_leaf(paths, leaf * length, paths->value[leaf], paths->n_pairs, z, total);
        }
    }
    return 0;
}
