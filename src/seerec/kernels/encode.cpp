// A whole encoder layer over short histories, and means of table rows, where no gradient follows.
//
// One history at a time: between its first and its last tensor nothing leaves the cache of one core. Axes: B histories, L slots,
// h heads of e columns, D = h e, F columns of the feed-forward network; D, e and F are multiples of WIDE.

#include <algorithm>

#include "products.h"

namespace seerec {
namespace {

struct Norm {
  const float *gain, *shift;
  float epsilon;

  // to = norm(x + update) * gain + shift, of one row.
  void join(const float* x, const float* update, long d, float* to) const {
    Floats totals{}, squares{};
    for (long j = 0; j < d; j += WIDE) {
      const Floats v = at(x + j) + at(update + j);
      put(to + j, v);
      totals += v;
    }
    const float mean = sum(totals) / d;
    for (long j = 0; j < d; j += WIDE) squares += (at(to + j) - mean) * (at(to + j) - mean);
    const float by = 1 / std::sqrt(sum(squares) / d + epsilon);
    for (long j = 0; j < d; j += WIDE) put(to + j, (at(to + j) - mean) * by * at(gain + j) + at(shift + j));
  }
};

struct Layer {
  long d, heads, inner;
  Linear in, out, feed_in, feed_out;  // in: queries, keys, values
  Norm norm_attention, norm_feed;
};

template <class P>
void encode(const Layer& layer, long b, long l, const float* x, const uint8_t* visible, float* y, int threads) {
  const long d = layer.d, e = d / layer.heads, lp = padded(l), wide = std::max(3 * d, layer.inner);
  const float scale = 1 / std::sqrt(static_cast<float>(e));
  const Maps<P> maps({layer.in, layer.out, layer.feed_in, layer.feed_out}, false);
#pragma omp parallel num_threads(threads)
  {
    P products(std::max({d, layer.inner, l}));
    Room room(l * wide + P::room(e, l) + P::room(l, e) + l * lp + 3 * l * d + lp);
    float* projected = room.take(l * wide);  // queries, keys, values; then the inner columns of the feed-forward network
    float* keys_room = room.take(P::room(e, l));
    float* values_room = room.take(P::room(l, e));
    float* logits = room.take(l * lp);
    float* mixed = room.take(l * d);
    float* update = room.take(l * d);
    float* joined = room.take(l * d);
    std::vector<uint8_t> seen(lp, 0);
#pragma omp for schedule(static)
    for (long row = 0; row < b; row++) {
      const float* given = x + row * l * d;
      maps[0].apply(products, given, projected, l);
      for (long head = 0; head < layer.heads; head++) {
        const float* query = projected + head * e;
        const auto keys = P::turned(query + d, 3 * d, e, l, keys_room);
        products.times(query, 3 * d, keys, nullptr, logits, lp, l, l, e);
        for (long i = 0; i < l; i++) {
          float* p = logits + i * lp;
          std::memcpy(seen.data(), visible + (row * l + i) * l, l);
          Floats most = all(UNSEEN), totals{};
          for (long j = 0; j < lp; j += WIDE) {
            const Floats v = load_bytes(seen.data() + j) != 0 ? at(p + j) * scale : all(UNSEEN);
            put(p + j, v);
            most = v > most ? v : most;
          }
          const float top = largest(most);
          for (long j = 0; j < lp; j += WIDE) {
            const Floats v = at(p + j) > UNSEEN / 2 ? exponential(at(p + j) - top) : Floats{};
            put(p + j, v);
            totals += v;
          }
          const float total = sum(totals), by = total > 0 ? 1 / total : 0;
          for (long j = 0; j < lp; j += WIDE) put(p + j, at(p + j) * by);
        }
        products.times(logits, lp, P::right(query + 2 * d, 3 * d, l, e, values_room), nullptr, mixed + head * e, d, l, e, l);
      }
      maps[1].apply(products, mixed, update, l);
      for (long i = 0; i < l; i++) layer.norm_attention.join(given + i * d, update + i * d, d, joined + i * d);
      maps[2].apply(products, joined, projected, l);
      for (long j = 0; j < l * layer.inner; j += WIDE) put(projected + j, at(projected + j) > 0 ? at(projected + j) : Floats{});
      maps[3].apply(products, projected, update, l);
      for (long i = 0; i < l; i++) layer.norm_feed.join(joined + i * d, update + i * d, d, y + (row * l + i) * d);
    }
  }
}

// Mean of the rows of a table by their ids, without id 0; zeros where nothing else is.
void mean_of_rows(const float* table, long d, const int64_t* ids, long n, long w, float* y, int threads) {
  constexpr long AHEAD = 4;  // bags whose rows are asked for before they are needed: the table is larger than any cache
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long i = 0; i < n; i++) {
    if (i + AHEAD < n)
      for (long j = 0; j < w; j++)
        if (const int64_t id = ids[(i + AHEAD) * w + j])
          for (long column = 0; column < d; column += WIDE) __builtin_prefetch(table + id * d + column);
    float* to = y + i * d;
    std::fill(to, to + d, 0.0f);
    long count = 0;
    for (long j = 0; j < w; j++)
      if (const int64_t id = ids[i * w + j]) {
        add_scaled(1, table + id * d, d, to);
        count++;
      }
    if (count > 1) put_scaled(1.0f / count, to, d, to);
  }
}

}  // namespace
}  // namespace seerec

#define SEEREC extern "C" __attribute__((visibility("default")))

// ``sizes``: B L D h F, whether in halves. ``weights``: matrix (outputs x inputs) and bias of the four layers, gain and shift of both norms.
SEEREC void seerec_encode(const long* sizes, const float* x, const uint8_t* visible, const float* const* weights, float epsilon_attention,
                          float epsilon_feed, float* y, int threads) {
  const float* const* w = weights;
  const long d = sizes[2], f = sizes[4];
  const seerec::Layer layer{d, sizes[3], f, {w[0], w[1], d, 3 * d}, {w[2], w[3], d, d}, {w[4], w[5], d, f}, {w[6], w[7], f, d},
                            {w[8], w[9], epsilon_attention}, {w[10], w[11], epsilon_feed}};
  (sizes[5] ? seerec::encode<seerec::Half> : seerec::encode<seerec::Full>)(layer, sizes[0], sizes[1], x, visible, y, threads);
}

SEEREC void seerec_mean_of_rows(const float* table, long d, const int64_t* ids, long n, long w, float* y, int threads) {
  seerec::mean_of_rows(table, d, ids, n, w, y, threads);
}
