/* The features of rows but for dates and comparables, in one pass; see columns_kernel.py. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* What a row's numbers may take on the stack: 64 KB. A contract has at most 5000 columns. */
#define MOST_NUMBERS 8192

typedef struct {
    const int64_t *numbers;       /* columns of the encoded row */
    const int64_t *native;        /* 1 where a gap is left to the model */
    const int64_t *ratios;        /* numerator and denominator of each */
    const double *ratio_fill;
    const int64_t *indicated;     /* columns whose absence is a feature */
    const int64_t *one_hot;       /* column, levels, place among the features, of each */
    const int64_t *means;         /* column, levels, place, first of its values, of each */
    const double *mean_values;
    const int64_t *near;          /* numbers that span the comparables' space */
    const double *scale;
    const double *centroids;      /* (clusters, dimensions) */
    const int64_t *context;       /* numbers that tell a row from the comparables that are itself */
    uint64_t columns, n_numbers, n_ratios, n_indicated, n_one_hot, n_means;
    uint64_t dimensions, clusters, cluster_place, n_mean_values, n_context;
    int64_t similar;              /* the number comparables should resemble in, or -1 */
    double similar_floor, farthest;
} Plain;

/* The level of a category: its code, `levels` for unknown, `levels` + 1 for missing. */
static int64_t level_of(double code, int64_t levels)
{
    if (isnan(code))
        return levels + 1;
    return code < 0.0 || code > (double)(levels + 1) ? levels : (int64_t)code;
}

static void place_row(const Plain *plain, const double *frame, double *out, double *points)
{
    const size_t d = plain->dimensions;
    for (size_t i = 0; i < d; i++) {
        double place = frame[plain->near[i]];
        place = place < -plain->farthest ? -plain->farthest : place;
        place = place > plain->farthest ? plain->farthest : place;
        points[i] = place * plain->scale[i];
    }
    if (plain->clusters == 0)
        return;
    double *distances = out + plain->cluster_place + 1;
    size_t nearest = 0;
    for (size_t k = 0; k < plain->clusters; k++) {
        double squared = 0.0;
        for (size_t i = 0; i < d; i++) {
            const double difference = points[i] - plain->centroids[k * d + i];
            squared = i ? squared + difference * difference : difference * difference;
        }
        distances[k] = sqrt(squared);
        nearest = distances[k] < distances[nearest] ? k : nearest;
    }
    distances[-1] = (double)nearest;
}

static int outside(const int64_t *places, uint64_t n, uint64_t end)
{
    for (uint64_t i = 0; i < n; i++)
        if (places[i] < 0 || (uint64_t)places[i] >= end)
            return 1;
    return 0;
}

/* Whether `count` features from `place` on do not fit into rows of `width`. */
static int beyond(int64_t place, uint64_t count, uint64_t width)
{
    return place < 0 || (uint64_t)place > width || count > width - (uint64_t)place;
}

/* Whether anything would be read or written outside of the arrays. A few comparisons for each
   feature and call, however many rows there are. */
static int misfit(const Plain *plain, uint64_t width)
{
    const uint64_t columns = plain->columns;
    if (plain->n_numbers > MOST_NUMBERS || plain->n_ratios > MOST_NUMBERS - plain->n_numbers)
        return 1;
    const uint64_t frames = plain->n_numbers + plain->n_ratios;
    if (frames > width || plain->n_indicated > width - frames
        || outside(plain->numbers, plain->n_numbers, columns)
        || outside(plain->ratios, 2 * plain->n_ratios, columns)
        || outside(plain->indicated, plain->n_indicated, columns)
        || outside(plain->near, plain->dimensions, frames)
        || outside(plain->context, plain->n_context, frames))
        return 1;
    if (plain->similar < -1 || (plain->similar >= 0 && (uint64_t)plain->similar >= frames))
        return 1;
    for (uint64_t i = 0; i < plain->n_one_hot; i++) {
        const int64_t *category = plain->one_hot + 3 * i;
        if (outside(category, 1, columns) || category[1] < 0
            || beyond(category[2], (uint64_t)category[1], width))
            return 1;
    }
    for (uint64_t i = 0; i < plain->n_means; i++) {
        const int64_t *mean = plain->means + 4 * i;
        if (outside(mean, 1, columns) || mean[1] < 0 || beyond(mean[2], 1, width)
            || beyond(mean[3], (uint64_t)mean[1] + 2, plain->n_mean_values))
            return 1;
    }
    return plain->clusters
           && (plain->clusters >= width
               || beyond((int64_t)plain->cluster_place, plain->clusters + 1, width));
}

/* Writes the features of n rows of `columns` into rows of `width`, their places (n, dimensions), the
   attribute of resemblance (n,) before its logarithm is taken, and their context (n, n_context). Returns 3, and writes nothing,
   where it would have to leave its arrays. */
int tasador_plain(const Plain *plain, const double *X, const double *filled, size_t n, size_t columns,
                  double *out, size_t width, double *points, size_t dimensions, double *similar,
                  double *context)
{
    double frame[MOST_NUMBERS];
    if (columns != plain->columns || dimensions != plain->dimensions || misfit(plain, width))
        return 3;
    const size_t numbers = plain->n_numbers, frames = numbers + plain->n_ratios;
    for (size_t row = 0; row < n; row++) {
        for (size_t i = 0; i < numbers; i++) {
            frame[i] = filled[plain->numbers[i]];
            out[i] = plain->native[i] && isnan(X[plain->numbers[i]]) ? NAN : frame[i];
        }
        for (size_t i = 0; i < plain->n_ratios; i++) {
            const double ratio = filled[plain->ratios[2 * i]] / filled[plain->ratios[2 * i + 1]];
            out[numbers + i] = frame[numbers + i] = isfinite(ratio) ? ratio : plain->ratio_fill[i];
        }
        for (size_t i = 0; i < plain->n_indicated; i++)
            out[frames + i] = isnan(X[plain->indicated[i]]) ? 1.0 : 0.0;
        for (size_t i = 0; i < plain->n_one_hot; i++) {
            const int64_t *category = plain->one_hot + 3 * i;
            const int64_t level = level_of(X[category[0]], category[1]);
            for (int64_t l = 0; l < category[1]; l++)
                out[category[2] + l] = l == level ? 1.0 : 0.0;
        }
        for (size_t i = 0; i < plain->n_means; i++) {
            const int64_t *mean = plain->means + 4 * i;
            out[mean[2]] = plain->mean_values[mean[3] + level_of(X[mean[0]], mean[1])];
        }
        place_row(plain, frame, out, points);
        if (plain->similar >= 0) {
            const double value = frame[plain->similar];
            similar[row] = value < plain->similar_floor ? plain->similar_floor : value;
        }
        for (size_t i = 0; i < plain->n_context; i++)
            *context++ = frame[plain->context[i]];
        X += plain->columns;
        filled += plain->columns;
        out += width;
        points += plain->dimensions;
    }
    return 0;
}
