// Products of a few dozen rows with a small matrix, and the memory of one thread: what the kernels without gradient are made of.

#pragma once

#include "vector.h"

namespace seerec {

constexpr float UNSEEN = -1e30f;

// ROWS x VECTORS of C = A B + bias: enough sums at once to hide how long one addition takes.
template <int ROWS, int VECTORS>
void block_of(const float* a, long a_row, const float* b, long b_row, const float* bias, float* c, long c_row, long k) {
  Floats total[ROWS][VECTORS];
  for (int j = 0; j < VECTORS; j++) {
    const Floats first = bias ? at(bias + j * WIDE) : Floats{};
    for (int i = 0; i < ROWS; i++) total[i][j] = first;
  }
  for (long x = 0; x < k; x++) {
    Floats line[VECTORS];
    for (int j = 0; j < VECTORS; j++) line[j] = at(b + x * b_row + j * WIDE);
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < VECTORS; j++) total[i][j] += a[i * a_row + x] * line[j];
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < VECTORS; j++) put(c + i * c_row + j * WIDE, total[i][j]);
}

template <int VECTORS>
void rows_of_blocks(const float* a, long a_row, const float* b, long b_row, const float* bias, float* c, long c_row, long m, long k) {
  long i = 0;
  for (; i + 6 <= m; i += 6) block_of<6, VECTORS>(a + i * a_row, a_row, b, b_row, bias, c + i * c_row, c_row, k);
  for (; i + 2 <= m; i += 2) block_of<2, VECTORS>(a + i * a_row, a_row, b, b_row, bias, c + i * c_row, c_row, k);
  if (i < m) block_of<1, VECTORS>(a + i * a_row, a_row, b, b_row, bias, c + i * c_row, c_row, k);
}

// C (m x n) = A (m x k) B (k x n) + bias; n a multiple of WIDE, ``bias`` null for none.
inline void affine(const float* a, long a_row, const float* b, long b_row, const float* bias, float* c, long c_row, long m, long n, long k) {
  long j = 0;
  const auto from = [&](long column) { return bias ? bias + column : nullptr; };
  for (; j + 4 * WIDE <= n; j += 4 * WIDE) rows_of_blocks<4>(a, a_row, b + j, b_row, from(j), c + j, c_row, m, k);
  for (; j + 2 * WIDE <= n; j += 2 * WIDE) rows_of_blocks<2>(a, a_row, b + j, b_row, from(j), c + j, c_row, m, k);
  if (j < n) rows_of_blocks<1>(a, a_row, b + j, b_row, from(j), c + j, c_row, m, k);
}

// Softmax of the first ``count`` of a row's columns, zeros after them up to a whole vector.
inline void softmax(float* p, long count, float scale) {
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Floats most = all(UNSEEN), totals{};
  for (long j = 0; j < count; j += WIDE) {
    const Floats v = lanes + static_cast<int>(j) < static_cast<int>(count) ? at(p + j) * scale : all(UNSEEN);
    put(p + j, v);
    most = v > most ? v : most;
  }
  const float top = largest(most);
  for (long j = 0; j < count; j += WIDE) {
    const Floats v = at(p + j) > UNSEEN / 2 ? exponential(at(p + j) - top) : Floats{};
    put(p + j, v);
    totals += v;
  }
  const float total = sum(totals), by = total > 0 ? 1 / total : 0;
  for (long j = 0; j < count; j += WIDE) put(p + j, at(p + j) * by);
}

// Memory of one thread, every piece of it beginning a line of the cache.
struct Room {
  std::vector<float> memory;
  float* next;
  explicit Room(long floats) : memory(floats + 16 * WIDE) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory.data());
    next = memory.data() + (padded(address, 64) - address) / sizeof(float);
  }
  float* take(long floats) {
    float* given = next;
    next += padded(floats);
    return given;
  }
};

}  // namespace seerec
