// Scores of many candidates of a target that attends to two histories (LCR-SER eq. 8 and 10), where no gradient follows.
//
// For a candidate e, over the states of both sides: p = softmax of e with the states' keys, side by side;
// <sum p x, e> + MLP(sum p v + W e + known). One target at a time, TILE candidates of it at a time. Axes: B rows, T targets,
// C candidates, L slots, K own states of a target, D columns of x, H of the MLP's first layer; D and H are multiples of WIDE.

#include <algorithm>

#include "products.h"

namespace seerec {

constexpr long TILE = 30;
constexpr int SIDES = 2;

struct Rows {
  const float* data;
  long stride;
  const float* at(long row) const { return data + row * stride; }
};

// x of the history (B L rows) and of own states (B T K rows), and what makes keys (D x D) and v (D x H) of them.
struct Side {
  Rows x, own_x;
  const float *of_key, *of_v;
  const uint8_t* visible;  // B T L
  long l;
};

struct Sizes {
  long b, t, c, d, h, k;
};

// Layers after the first: ``widths`` [H, ..., 1]; matrices of inputs x outputs.
struct Rest {
  long count;
  const long* widths;
  const float* const* weights;  // matrix and bias by turns
};

void relu(float* p, long count) {
  for (long j = 0; j < count; j += WIDE) put(p + j, at(p + j) > 0 ? at(p + j) : Floats{});
}

void score(const Sizes& n, const Side side[SIDES], const float* items, bool dot, const float* of_item, const float* known, const Rest& rest,
           float* out, int threads) {
  const long longest = padded(side[0].l + n.k) + padded(side[1].l + n.k), row_width = n.d + longest;
  const long widest = n.h ? *std::max_element(rest.widths, rest.widths + rest.count) : 0;
#pragma omp parallel num_threads(threads)
  {
    Room room((longest + n.d) * (2 * n.d + n.h) + n.d * longest + TILE * (row_width + n.d + 2 * widest));
    float* keys = room.take(longest * n.d);
    float* transposed = room.take(n.d * longest);
    float* x = room.take(longest * n.d);
    float* v = room.take((n.d + longest) * n.h);  // W', then what the states became
    float* given = room.take(TILE * row_width);  // e, then the weights
    float* mixed = room.take(TILE * n.d);
    float* hidden = room.take(TILE * widest);
    float* next = room.take(TILE * widest);
    if (n.h) copy(of_item, n.d * n.h, v);
#pragma omp for schedule(static)
    for (long target = 0; target < n.b * n.t; target++) {
      const long row = target / n.t;
      long count[SIDES], begin[SIDES + 1] = {0};
      for (int a = 0; a < SIDES; a++) {
        const Side& s = side[a];
        long at_row = begin[a];
        for (long j = 0; j < s.l; j++)
          if (s.visible[target * s.l + j]) copy(s.x.at(row * s.l + j), n.d, x + at_row++ * n.d);
        for (long j = 0; j < n.k; j++) copy(s.own_x.at(target * n.k + j), n.d, x + at_row++ * n.d);
        count[a] = at_row - begin[a];
        begin[a + 1] = begin[a] + padded(count[a]);
        for (; at_row < begin[a + 1]; at_row++) {
          std::fill(x + at_row * n.d, x + (at_row + 1) * n.d, 0.0f);
          std::fill(v + (n.d + at_row) * n.h, v + (n.d + at_row + 1) * n.h, 0.0f);
        }
        const float* states_of = x + begin[a] * n.d;
        affine(states_of, n.d, s.of_key, n.d, nullptr, keys, n.d, count[a], n.d, n.d);
        if (n.h) affine(states_of, n.d, s.of_v, n.h, nullptr, v + (n.d + begin[a]) * n.h, n.h, count[a], n.h, n.d);
        load_transposed(keys, n.d, count[a], n.d, transposed + begin[a] * n.d, padded(count[a]));
      }
      const long states = begin[SIDES], width = n.d + states;
      for (long first = 0; first < n.c; first += TILE) {
        const long many = std::min(TILE, n.c - first);
        for (long i = 0; i < many; i++) copy(items + (target * n.c + first + i) * n.d, n.d, given + i * width);
        for (int a = 0; a < SIDES; a++) {
          const long columns = begin[a + 1] - begin[a];
          if (!columns) continue;
          float* weights = given + n.d + begin[a];
          affine(given, width, transposed + begin[a] * n.d, columns, nullptr, weights, width, many, columns, n.d);
          for (long i = 0; i < many; i++) softmax(weights + i * width, count[a], 1);
        }
        float* scores = out + target * n.c + first;
        std::fill(scores, scores + many, 0.0f);
        if (dot) {
          affine(given + n.d, width, x, n.d, nullptr, mixed, n.d, many, n.d, states);
          for (long i = 0; i < many; i++) scores[i] = inner(given + i * width, mixed + i * n.d, n.d);
        }
        if (!n.h) continue;
        affine(given, width, v, n.h, known + row * n.h, hidden, n.h, many, n.h, width);
        float *from = hidden, *to = next;
        for (long layer = 0; layer + 1 < rest.count; layer++) {
          const long in = rest.widths[layer], outs = rest.widths[layer + 1];
          const float *matrix = rest.weights[2 * layer], *bias = rest.weights[2 * layer + 1];
          relu(from, many * in);
          if (outs == 1) {
            for (long i = 0; i < many; i++) scores[i] += inner(from + i * in, matrix, in) + *bias;
          } else {
            affine(from, in, matrix, outs, bias, to, outs, many, outs, in);
            std::swap(from, to);
          }
        }
      }
    }
  }
}

}  // namespace seerec

// ``sizes``: B T C D H K, L of each side, the widths from H to 1. ``given``: of each side x and own x, with
// the strides of their rows; ``matrices``: of each side what makes keys and v. H is 0 for no MLP, and ``dot`` 0 for no inner product.
extern "C" __attribute__((visibility("default"))) void seerec_score(
    const long* sizes, long widths, const void* const* given, const long* strides, const float* const* matrices, const uint8_t* const* visible, const float* items, int dot,
    const float* of_item, const float* known, const float* const* weights, float* out, int threads) {
  using namespace seerec;
  const auto rows = [&](int i) { return Rows{static_cast<const float*>(given[i]), strides[i]}; };
  const auto side = [&](int i) {
    return Side{rows(2 * i), rows(2 * i + 1), matrices[2 * i], matrices[2 * i + 1], visible[i], sizes[6 + i]};
  };
  const Side sides[SIDES] = {side(0), side(1)};
  score({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]}, sides, items, dot != 0, of_item, known, {widths, sizes + 8, weights}, out,
        threads);
}
