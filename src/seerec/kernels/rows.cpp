// What happens to every row of a tensor by itself: residual with dropout and layer normalisation, ReLU with dropout.

#include <omp.h>

#include "vector.h"

namespace seerec {

// y = norm(x + dropout(update)) * gain + shift; ``normed`` and ``inverse`` (1 / standard deviation) are kept for the gradient.
template <class T>
void join_forward(long rows, long d, const T* x, const T* update, const float* gain, const float* shift, float epsilon, Dropout dropout,
                  T* y, T* normed, float* inverse, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> memory(padded(d, CHUNK) * 2, 1.0f);
    float *factors = memory.data(), *z = factors + padded(d, CHUNK);
#pragma omp for schedule(static)
    for (long i = 0; i < rows; i++) {
      if (dropout.dropped) dropout.row(i, d, factors);
      const T *xi = x + i * d, *ui = update + i * d;
      T *yi = y + i * d, *ni = normed ? normed + i * d : nullptr;
      Floats totals{}, squares{};
      float rest = 0;
      columns(
          d,
          [&](long j) {
            const Floats v = load_wide(xi + j) + load_wide(ui + j) * at(factors + j);
            put(z + j, v);
            totals += v;
          },
          [&](long j) { rest += z[j] = load(xi[j]) + load(ui[j]) * factors[j]; });
      const float mean = (sum(totals) + rest) / d;
      rest = 0;
      columns(
          d, [&](long j) { squares += (at(z + j) - mean) * (at(z + j) - mean); },
          [&](long j) { rest += (z[j] - mean) * (z[j] - mean); });
      const float by = 1 / std::sqrt((sum(squares) + rest) / d + epsilon);
      columns(
          d,
          [&](long j) {
            const Floats n = (at(z + j) - mean) * by;
            store_wide(yi + j, n * at(gain + j) + at(shift + j));
            if (ni) store_wide(ni + j, n);
          },
          [&](long j) {
            const float n = (z[j] - mean) * by;
            store(yi + j, n * gain[j] + shift[j]);
            if (ni) store(ni + j, n);
          });
      if (inverse) inverse[i] = by;
    }
  }
}

template <class T>
void join_backward(long rows, long d, const T* gradient, const T* normed, const float* inverse, const float* gain, Dropout dropout,
                   T* of_x, T* of_update, float* of_gain, float* of_shift, int threads) {
  std::vector<double> totals(static_cast<size_t>(threads) * 2 * d, 0.0);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> memory(padded(d, CHUNK) * 2 + 2 * d, 1.0f);
    float *factors = memory.data(), *g = factors + padded(d, CHUNK), *gains = g + padded(d, CHUNK), *shifts = gains + d;
    for (long j = 0; j < d; j++) gains[j] = shifts[j] = 0;
#pragma omp for schedule(static)
    for (long i = 0; i < rows; i++) {
      const T *gi = gradient + i * d, *ni = normed + i * d;
      Floats means{}, alongs{};
      float mean = 0, along = 0;
      columns(
          d,
          [&](long j) {
            const Floats raw = load_wide(gi + j), n = load_wide(ni + j), of = raw * at(gain + j);
            put(gains + j, at(gains + j) + raw * n);
            put(shifts + j, at(shifts + j) + raw);
            put(g + j, of);
            means += of;
            alongs += of * n;
          },
          [&](long j) {
            const float raw = load(gi[j]), n = load(ni[j]);
            gains[j] += raw * n;
            shifts[j] += raw;
            g[j] = raw * gain[j];
            mean += g[j];
            along += g[j] * n;
          });
      mean = (mean + sum(means)) / d;
      along = (along + sum(alongs)) / d;
      if (dropout.dropped) dropout.row(i, d, factors);
      const bool apart = of_update != of_x;
      columns(
          d,
          [&](long j) {
            const Floats of = (at(g + j) - mean - load_wide(ni + j) * along) * inverse[i];
            store_wide(of_x + i * d + j, of);
            if (apart) store_wide(of_update + i * d + j, of * at(factors + j));
          },
          [&](long j) {
            const float of = (g[j] - mean - load(ni[j]) * along) * inverse[i];
            store(of_x + i * d + j, of);
            if (apart) store(of_update + i * d + j, of * factors[j]);
          });
    }
    double* mine = totals.data() + static_cast<size_t>(omp_get_thread_num()) * 2 * d;
    for (long j = 0; j < d; j++) {
      mine[j] = gains[j];
      mine[d + j] = shifts[j];
    }
  }
  for (long j = 0; j < d; j++) {
    double gains = 0, shifts = 0;
    for (int t = 0; t < threads; t++) {
      gains += totals[static_cast<size_t>(t) * 2 * d + j];
      shifts += totals[static_cast<size_t>(t) * 2 * d + d + j];
    }
    of_gain[j] = static_cast<float>(gains);
    of_shift[j] = static_cast<float>(shifts);
  }
}

// x = what is positive in x, with dropout; the gradient needs the result alone.
template <class T>
void relu_forward(long rows, long d, T* x, Dropout dropout, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> factors(padded(d, CHUNK), 1.0f);
#pragma omp for schedule(static)
    for (long i = 0; i < rows; i++) {
      if (dropout.dropped) dropout.row(i, d, factors.data());
      T* xi = x + i * d;
      columns(
          d,
          [&](long j) {
            const Floats v = load_wide(xi + j);
            store_wide(xi + j, v > 0 ? v * at(factors.data() + j) : Floats{});
          },
          [&](long j) { store(xi + j, load(xi[j]) > 0 ? load(xi[j]) * factors[j] : 0.0f); });
    }
  }
}

template <class T>
void relu_backward(long count, const T* gradient, const T* result, float scale, T* of_x, int threads) {
  const long blocks = (count + CHUNK - 1) / CHUNK;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (long block = 0; block < blocks; block++) {
    const long first = block * CHUNK;
    const T *g = gradient + first, *y = result + first;
    T* to = of_x + first;
    columns(
        count - first < CHUNK ? count - first : CHUNK,
        [&](long j) { store_wide(to + j, load_wide(y + j) > 0 ? load_wide(g + j) * scale : Floats{}); },
        [&](long j) { store(to + j, load(y[j]) > 0 ? load(g[j]) * scale : 0.0f); });
  }
}

// y = x with dropout.
template <class T>
void drop(long rows, long d, const T* x, Dropout dropout, T* y, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> factors(padded(d, CHUNK));
#pragma omp for schedule(static)
    for (long i = 0; i < rows; i++) {
      dropout.row(i, d, factors.data());
      columns(
          d, [&](long j) { store_wide(y + i * d + j, load_wide(x + i * d + j) * at(factors.data() + j)); },
          [&](long j) { store(y + i * d + j, load(x[i * d + j]) * factors[j]); });
    }
  }
}

inline Dropout dropout_of(const uint32_t* draws) { return {draws[0], draws[1], static_cast<int>(draws[2])}; }

}  // namespace seerec

#define BOTH(bytes, name, ...)                          \
  if (bytes == 2) {                                     \
    using T = seerec::BFloat16;                         \
    seerec::name<T>(__VA_ARGS__);                       \
  } else {                                              \
    using T = float;                                    \
    seerec::name<T>(__VA_ARGS__);                       \
  }

#define SEEREC extern "C" __attribute__((visibility("default")))

SEEREC void seerec_join(int bytes, long rows, long d, const void* x, const void* update, const float* gain, const float* shift, float epsilon,
                 const uint32_t* draws, void* y, void* normed, float* inverse, int threads) {
  BOTH(bytes, join_forward, rows, d, (const T*)x, (const T*)update, gain, shift, epsilon, seerec::dropout_of(draws), (T*)y, (T*)normed,
       inverse, threads)
}

SEEREC void seerec_join_gradient(int bytes, long rows, long d, const void* gradient, const void* normed, const float* inverse,
                          const float* gain, const uint32_t* draws, void* of_x, void* of_update, float* of_gain, float* of_shift,
                          int threads) {
  BOTH(bytes, join_backward, rows, d, (const T*)gradient, (const T*)normed, inverse, gain, seerec::dropout_of(draws), (T*)of_x,
       (T*)of_update, of_gain, of_shift, threads)
}

SEEREC void seerec_relu(int bytes, long rows, long d, void* x, const uint32_t* draws, int threads) {
  BOTH(bytes, relu_forward, rows, d, (T*)x, seerec::dropout_of(draws), threads)
}

SEEREC void seerec_relu_gradient(int bytes, long count, const void* gradient, const void* result, float scale, void* of_x, int threads) {
  BOTH(bytes, relu_backward, count, (const T*)gradient, (const T*)result, scale, (T*)of_x, threads)
}

SEEREC void seerec_drop(int bytes, long rows, long d, const void* x, const uint32_t* draws, void* y, int threads) {
  BOTH(bytes, drop, rows, d, (const T*)x, seerec::dropout_of(draws), (T*)y, threads)
}
