// softmax(q k' / sqrt(e)) v over a history that the queries of a row share and each query's own vectors, and its gradient.
//
// One (row, head) at a time, TILE queries of it at a time: logits live in the cache of one core and are never written out. The
// gradient computes them again. Axes: B rows, M queries, L slots, h heads of e columns; every
// tensor is given as rows with a stride between them: of D = h e columns, or keys and values of the e that all heads share. See ``seerec/models/attention.py``.

#include "products.h"

namespace seerec {

constexpr long TILE = 32;
constexpr long FEW = 4;  // queries from which on keys and values are worth being laid out

template <class T>
struct Rows {
  T* data;
  long stride;
  T* at(long row, long column) const { return data + row * stride + column; }
};

template <class T>
struct Attention {
  long b, m, l, heads, e, apart;  // apart: columns from one head's keys and values to the next one's, e or 0
  Rows<const T> query, key, value;
  const uint8_t* visible;  // B M L
  long owns;
  const Rows<const T>*own_key, *own_value;  // each B M D
  Dropout dropout;

  long columns() const { return l + owns; }  // of a logit: the history's, then the own
  long lp() const { return padded(columns()); }
  long ep() const { return padded(e); }
};

// Logits of some queries of a (row, head), scaled, UNSEEN where nothing is to be seen; ``seen`` is room for lp bytes.
template <class T>
void logits_of(const Attention<T>& a, long row, long head, long first, long count, const float* query, const float* keys_transposed,
               float* logits, uint8_t* seen) {
  const long lp = a.lp(), ep = a.ep(), column = head * a.apart;
  const float scale = 1 / std::sqrt(static_cast<float>(a.e));
  if (keys_transposed) {
    product(query, ep, 1, keys_transposed, lp, nullptr, logits, lp, count, lp, a.e, false);
  } else {
    for (long i = 0; i < count; i++)
      for (long j = 0; j < a.l; j++)
        if (a.visible[(row * a.m + first + i) * a.l + j]) logits[i * lp + j] = inner(query + i * ep, a.key.at(row * a.l + j, column), a.e);
  }
  for (long i = 0; i < count; i++) {
    const long query_row = row * a.m + first + i;
    float* p = logits + i * lp;
    std::memcpy(seen, a.visible + query_row * a.l, a.l);
    std::memset(seen + a.l, 0, lp - a.l);
    for (long j = 0; j < lp; j += WIDE) put(p + j, load_bytes(seen + j) != 0 ? at(p + j) * scale : all(UNSEEN));
    for (long o = 0; o < a.owns; o++) p[a.l + o] = inner(query + i * ep, a.own_key[o].at(query_row, column), a.e) * scale;
  }
}

// exp(logit - top), zero where hidden.
inline Floats weight(Floats logit, float top) {
  return logit > UNSEEN / 2 ? exponential(logit - top) : Floats{};
}

// ``tops``: B h M 2, the largest logit of each query and one over the sum of its weights, zero where it sees nothing.
template <class T>
void forward(const Attention<T>& a, Rows<T> out, float* tops, float* weights, int threads) {
  const long lp = a.lp(), ep = a.ep();
  const bool transposes = a.m >= FEW;
#pragma omp parallel num_threads(threads)
  {
    Room scratch(a.e * lp + a.l * ep + TILE * (2 * ep + lp) + padded(lp, CHUNK));
    std::vector<uint8_t> seen(lp);
    float* keys = scratch.take(a.e * lp);
    float* values = scratch.take(a.l * ep);
    float* query = scratch.take(TILE * ep);
    float* result = scratch.take(TILE * ep);
    float* logits = scratch.take(TILE * lp);
    float* factors = scratch.take(padded(lp, CHUNK));
#pragma omp for schedule(static) collapse(2)
    for (long row = 0; row < a.b; row++)
      for (long head = 0; head < a.heads; head++) {
        const long column = head * a.e, shared = head * a.apart;
        if (transposes) {
          load_transposed(a.key.at(row * a.l, shared), a.key.stride, a.l, a.e, keys, lp);
          load_rows(a.value.at(row * a.l, shared), a.value.stride, a.l, a.e, values, ep);
        }
        for (long first = 0; first < a.m; first += TILE) {
          const long count = a.m - first < TILE ? a.m - first : TILE;
          load_rows(a.query.at(row * a.m + first, column), a.query.stride, count, a.e, query, ep);
          logits_of(a, row, head, first, count, query, transposes ? keys : nullptr, logits, seen.data());
          for (long i = 0; i < count; i++) {
            float* p = logits + i * lp;
            const long query_row = row * a.m + first + i, place = (row * a.heads + head) * a.m + first + i;
            Floats most = at(p);
            for (long j = WIDE; j < lp; j += WIDE) most = at(p + j) > most ? at(p + j) : most;
            const float top = largest(most);
            Floats totals{};
            for (long j = 0; j < lp; j += WIDE) {
              Floats x = weight(at(p + j), top);
              put(p + j, x);
              totals += x;
            }
            const float total = sum(totals), inverse = total > 0 ? 1 / total : 0;
            tops[2 * place] = top;
            tops[2 * place + 1] = inverse;
            if (weights)
              for (long j = 0; j < a.l; j++) weights[((head * a.b + row) * a.m + first + i) * a.l + j] = p[j] * inverse;
            if (a.dropout.dropped) a.dropout.row(place, lp, factors);
            for (long j = 0; j < lp; j += WIDE) put(p + j, at(p + j) * inverse * (a.dropout.dropped ? at(factors + j) : all(1)));
            for (long j = 0; j < ep; j++) result[i * ep + j] = 0;
            for (long o = 0; o < a.owns; o++)
              add_scaled(p[a.l + o], a.own_value[o].at(query_row, shared), a.e, result + i * ep);
          }
          if (transposes) {
            product(logits, lp, 1, values, ep, nullptr, result, ep, count, ep, a.l, true);
          } else {
            for (long i = 0; i < count; i++)
              for (long j = 0; j < a.l; j++)
                if (logits[i * lp + j] != 0) add_scaled(logits[i * lp + j], a.value.at(row * a.l + j, shared), a.e, result + i * ep);
          }
          store_rows(result, ep, count, a.e, out.at(row * a.m + first, column), out.stride);
        }
      }
  }
}

template <class T>
struct Gradients {
  Rows<T> query, key, value;
  const Rows<T>*own_key, *own_value;
};

template <class T>
void backward(const Attention<T>& a, Rows<const T> gradient, const float* tops, const Gradients<T>& to, int threads) {
  const long lp = a.lp(), ep = a.ep();
#pragma omp parallel num_threads(threads)
  {
    Room scratch(2 * a.e * lp + 3 * a.l * ep + TILE * (3 * ep + 3 * lp) + padded(lp, CHUNK));
    std::vector<uint8_t> seen(lp);
    float* keys_transposed = scratch.take(a.e * lp);
    float* values_transposed = scratch.take(a.e * lp);
    float* keys = scratch.take(a.l * ep);
    float* of_keys = scratch.take(a.l * ep);
    float* of_values = scratch.take(a.l * ep);
    float* query = scratch.take(TILE * ep);
    float* of_query = scratch.take(TILE * ep);
    float* of_out = scratch.take(TILE * ep);
    float* weights = scratch.take(TILE * lp);
    float* of_weights = scratch.take(TILE * lp);
    float* dropped = scratch.take(TILE * lp);
    float* factors = scratch.take(padded(lp, CHUNK));
    const float scale = 1 / std::sqrt(static_cast<float>(a.e));
#pragma omp for schedule(static) collapse(2)
    for (long row = 0; row < a.b; row++)
      for (long head = 0; head < a.heads; head++) {
        const long column = head * a.e;
        load_transposed(a.key.at(row * a.l, column), a.key.stride, a.l, a.e, keys_transposed, lp);
        load_transposed(a.value.at(row * a.l, column), a.value.stride, a.l, a.e, values_transposed, lp);
        load_rows(a.key.at(row * a.l, column), a.key.stride, a.l, a.e, keys, ep);
        for (long i = 0; i < a.l * ep; i++) of_keys[i] = of_values[i] = 0;
        for (long first = 0; first < a.m; first += TILE) {
          const long count = a.m - first < TILE ? a.m - first : TILE;
          load_rows(a.query.at(row * a.m + first, column), a.query.stride, count, a.e, query, ep);
          load_rows(gradient.at(row * a.m + first, column), gradient.stride, count, a.e, of_out, ep);
          logits_of(a, row, head, first, count, query, keys_transposed, weights, seen.data());
          product(of_out, ep, 1, values_transposed, lp, nullptr, of_weights, lp, count, lp, a.e, false);
          for (long i = 0; i < count; i++) {
            const long query_row = row * a.m + first + i, place = (row * a.heads + head) * a.m + first + i;
            const float top = tops[2 * place], inverse = tops[2 * place + 1];
            float *p = weights + i * lp, *dp = of_weights + i * lp, *pd = dropped + i * lp;
            for (long o = 0; o < a.owns; o++) dp[a.l + o] = inner(of_out + i * ep, a.own_value[o].at(query_row, column), a.e);
            if (a.dropout.dropped) a.dropout.row(place, lp, factors);
            Floats deltas{};
            for (long j = 0; j < lp; j += WIDE) {
              const Floats x = weight(at(p + j), top) * inverse, factor = a.dropout.dropped ? at(factors + j) : all(1);
              const Floats g = at(dp + j) * factor;
              put(pd + j, x * factor);
              deltas += x * g;
              put(p + j, x);
              put(dp + j, g);
            }
            const float delta = sum(deltas);
            for (long j = 0; j < lp; j += WIDE) put(dp + j, at(p + j) * (at(dp + j) - delta) * scale);
            for (long x = 0; x < ep; x++) of_query[i * ep + x] = 0;
            for (long o = 0; o < a.owns; o++) {
              add_scaled(dp[a.l + o], a.own_key[o].at(query_row, column), a.e, of_query + i * ep);
              put_scaled(dp[a.l + o], query + i * ep, a.e, to.own_key[o].at(query_row, column));
              put_scaled(pd[a.l + o], of_out + i * ep, a.e, to.own_value[o].at(query_row, column));
            }
          }
          product(of_weights, lp, 1, keys, ep, nullptr, of_query, ep, count, ep, a.l, true);
          product(of_weights, 1, lp, query, ep, nullptr, of_keys, ep, a.l, ep, count, true);
          product(dropped, 1, lp, of_out, ep, nullptr, of_values, ep, a.l, ep, count, true);
          store_rows(of_query, ep, count, a.e, to.query.at(row * a.m + first, column), to.query.stride);
        }
        store_rows(of_keys, ep, a.l, a.e, to.key.at(row * a.l, column), to.key.stride);
        store_rows(of_values, ep, a.l, a.e, to.value.at(row * a.l, column), to.value.stride);
      }
  }
}

constexpr long MOST = 64;  // own vectors of a query

template <class P, class T>
void pair(void* const* pointers, const long* strides, long owns, Rows<T>* keys, Rows<T>* values) {
  for (long o = 0; o < owns; o++) {
    keys[o] = {static_cast<P*>(pointers[2 * o]), strides[2 * o]};
    values[o] = {static_cast<P*>(pointers[2 * o + 1]), strides[2 * o + 1]};
  }
}

// ``sizes``: B M L h e and ``apart``. ``given`` and ``taken``: pointers and strides of query, key, value, then own keys and values by turns.
// ``draws``: the two seeds and how many of 256 are dropped.
template <class T>
void run(const long* sizes, long owns, void* const* given, const long* strides, const uint8_t* visible, const uint32_t* draws,
         void* out, long out_stride, float* tops, float* weights, void* const* taken, const long* taken_strides, int threads) {
  Rows<const T> own_key[MOST], own_value[MOST];
  pair<const T>(given + 3, strides + 3, owns, own_key, own_value);
  Attention<T> a{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],
                 {static_cast<const T*>(given[0]), strides[0]},
                 {static_cast<const T*>(given[1]), strides[1]},
                 {static_cast<const T*>(given[2]), strides[2]},
                 visible, owns, own_key, own_value,
                 {draws[0], draws[1], static_cast<int>(draws[2])}};
  if (!taken) {
    forward<T>(a, {static_cast<T*>(out), out_stride}, tops, weights, threads);
    return;
  }
  Rows<T> of_own_key[MOST], of_own_value[MOST];
  pair<T>(taken + 3, taken_strides + 3, owns, of_own_key, of_own_value);
  Gradients<T> to{{static_cast<T*>(taken[0]), taken_strides[0]},
                  {static_cast<T*>(taken[1]), taken_strides[1]},
                  {static_cast<T*>(taken[2]), taken_strides[2]},
                  of_own_key, of_own_value};
  backward<T>(a, {static_cast<const T*>(out), out_stride}, tops, to, threads);
}

}  // namespace seerec

#define SEEREC extern "C" __attribute__((visibility("default")))

// Forward where ``taken`` is null; else the gradient, with that of the result in ``out``.
SEEREC void seerec_attend(int bytes, const long* sizes, long owns, void* const* given, const long* strides, const uint8_t* visible,
                   const uint32_t* draws, void* out, long out_stride, float* tops, float* weights, void* const* taken,
                   const long* taken_strides, int threads) {
  (bytes == 2 ? seerec::run<seerec::BFloat16> : seerec::run<float>)(
      sizes, owns, given, strides, visible, draws, out, out_stride, tops, weights, taken, taken_strides, threads);
}
