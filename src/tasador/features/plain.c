/* The features of rows but for dates and comparables, in one pass; see compact_plain.py. */
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
    uint64_t columns, n_numbers, n_ratios, n_indicated, n_one_hot, n_means;
    uint64_t dimensions, clusters, cluster_place, n_mean_values;
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
    if (plain->clusters)
        distances[-1] = (double)nearest;
}

static int outside(const int64_t *columns, size_t n, size_t step, uint64_t most)
{
    for (size_t i = 0; i < n; i++)
        if ((uint64_t)columns[i * step] >= most)
            return 1;
    return 0;
}

/* Whether anything would be read or written outside of a row, of its features or of the arrays. */
static int unfit(const Plain *plain, size_t columns, size_t stride)
{
    const size_t frames = plain->n_numbers + plain->n_ratios;
    if (columns != plain->columns || plain->n_indicated > columns || frames + plain->n_indicated > stride)
        return 1;
    for (size_t i = 0; i < plain->n_one_hot; i++) {
        const int64_t *category = plain->one_hot + 3 * i;
        if (category[1] < 0 || category[2] < 0 || (size_t)category[1] > stride
            || (size_t)category[2] > stride - (size_t)category[1])
            return 1;
    }
    for (size_t i = 0; i < plain->n_means; i++) {
        const int64_t *mean = plain->means + 4 * i;
        if (mean[1] < 0 || mean[2] < 0 || (size_t)mean[2] >= stride || mean[3] < 0
            || (uint64_t)mean[3] + (uint64_t)mean[1] + 2 > plain->n_mean_values)
            return 1;
    }
    if (plain->clusters && (plain->cluster_place >= stride
                            || plain->clusters > stride - plain->cluster_place - 1))
        return 1;
    return outside(plain->numbers, plain->n_numbers, 1, columns)
           || outside(plain->ratios, 2 * plain->n_ratios, 1, columns)
           || outside(plain->indicated, plain->n_indicated, 1, columns)
           || outside(plain->one_hot, plain->n_one_hot, 3, columns)
           || outside(plain->means, plain->n_means, 4, columns)
           || outside(plain->near, plain->dimensions, 1, frames)
           || (plain->similar >= 0 && (uint64_t)plain->similar >= frames);
}

/* Writes the features of n rows of `columns`, `stride` doubles apart, their places (n, dimensions), and the
   attribute of resemblance (n,) before its logarithm is taken. Returns 3 when there are too many
   numbers, 4 when what was fitted does not fit the widths. */
int tasador_plain(const Plain *plain, const double *X, const double *filled, size_t n,
                  size_t columns, double *out, size_t stride, double *points, double *similar)
{
    double frame[MOST_NUMBERS];
    const size_t numbers = plain->n_numbers, frames = numbers + plain->n_ratios;
    if (numbers > MOST_NUMBERS || frames > MOST_NUMBERS)
        return 3;
    if (unfit(plain, columns, stride))
        return 4;
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
        X += plain->columns;
        filled += plain->columns;
        out += stride;
        points += plain->dimensions;
    }
    return 0;
}
