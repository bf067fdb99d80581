// What the kernels share: sixteen floats at a time, dropout's draws, storage in 32 or 16 bits.
//
// The vectors are GCC's own: the same source serves AVX-512, AVX2 and everything else. Clang lacks their shuffle.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace seerec {

constexpr int WIDE = 16;  // floats of a vector
constexpr int CHUNK = 64;  // elements that share sixteen draws of 32 bits, a byte each

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));

inline long padded(long n, long to = WIDE) { return (n + to - 1) / to * to; }

inline Floats at(const float* p) { return *reinterpret_cast<const Floats*>(p); }
inline void put(float* p, Floats v) { *reinterpret_cast<Floats*>(p) = v; }
inline Floats all(float x) { return Floats{} + x; }

// Halves are folded onto each other: lane by lane would wait for every addition.
template <class Fold>
inline float folded(Floats v, Fold fold) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  Eight eight = fold(low, high);
  Four left, right;
  std::memcpy(&left, &eight, 16);
  std::memcpy(&right, reinterpret_cast<const char*>(&eight) + 16, 16);
  Four four = fold(left, right);
  Four two = fold(four, __builtin_shuffle(four, (__attribute__((vector_size(16))) int){2, 3, 0, 1}));
  return fold(two, __builtin_shuffle(two, (__attribute__((vector_size(16))) int){1, 0, 3, 2}))[0];
}

inline float sum(Floats v) {
  return folded(v, [](auto a, auto b) { return a + b; });
}

inline float largest(Floats v) {
  return folded(v, [](auto a, auto b) { return a > b ? a : b; });
}

// exp to about two units in the last place, for x <= 88; what is below -87 counts as -87, about 1e-38.
inline Floats exponential(Floats x) {
  x = x < -87.0f ? all(-87.0f) : x;
  Floats shifted = x * 1.44269504f + 12582912.0f;  // the nearest integer, in the low bits
  Floats n = shifted - 12582912.0f;
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  return p * reinterpret_cast<Floats&>(power);
}

// Storage of 16 bits: the upper half of a float, rounded to the nearest even.
struct BFloat16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline float load(BFloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline void store(float* to, float x) { *to = x; }
inline void store(BFloat16* to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  to->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Ints load_bytes(const uint8_t* p) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  Bytes bytes;
  std::memcpy(&bytes, p, WIDE);
  return __builtin_convertvector(bytes, Ints);
}

inline Floats load_wide(const float* p) { return at(p); }
inline Floats load_wide(const BFloat16* p) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  Halves halves;
  std::memcpy(&halves, p, 32);
  Words bits = __builtin_convertvector(halves, Words) << 16;
  return reinterpret_cast<Floats&>(bits);
}
inline void store_wide(float* to, Floats v) { put(to, v); }
inline void store_wide(BFloat16* to, Floats v) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  Words bits = reinterpret_cast<Words&>(v);
  Halves halves = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
  std::memcpy(to, &halves, 32);
}

// Does ``wide(j)`` for every whole vector of the columns and ``narrow(j)`` for every column after them.
template <class Wide, class Narrow>
inline void columns(long count, Wide wide, Narrow narrow) {
  long j = 0;
  for (; j + WIDE <= count; j += WIDE) wide(j);
  for (; j < count; j++) narrow(j);
}

// Inner product of floats with stored ones.
template <class T>
inline float inner(const float* a, const T* b, long count) {
  Floats totals{};
  float rest = 0;
  columns(count, [&](long j) { totals += at(a + j) * load_wide(b + j); }, [&](long j) { rest += a[j] * load(b[j]); });
  return sum(totals) + rest;
}

// to += factor * from, and to = factor * from.
template <class T>
inline void add_scaled(float factor, const T* from, long count, float* to) {
  columns(count, [&](long j) { put(to + j, at(to + j) + factor * load_wide(from + j)); }, [&](long j) { to[j] += factor * load(from[j]); });
}
template <class T>
inline void put_scaled(float factor, const float* from, long count, T* to) {
  columns(count, [&](long j) { store_wide(to + j, factor * at(from + j)); }, [&](long j) { store(to + j, factor * from[j]); });
}

// Rows of a tensor as floats, with zeros up to a row's stride.
template <class T>
inline void load_rows(const T* from, long stride, long rows, long count, float* to, long to_stride) {
  for (long i = 0; i < rows; i++) {
    const T* row = from + i * stride;
    float* out = to + i * to_stride;
    columns(count, [&](long j) { put(out + j, load_wide(row + j)); }, [&](long j) { out[j] = load(row[j]); });
    for (long j = count; j < to_stride; j++) out[j] = 0;
  }
}

template <class T>
inline void store_rows(const float* from, long from_stride, long rows, long count, T* to, long stride) {
  for (long i = 0; i < rows; i++) put_scaled(1, from + i * from_stride, count, to + i * stride);
}

// Half of a step of a transposition: lanes that differ in bit S change places between two rows.
template <int S>
inline void exchange(Floats& a, Floats& b) {
  Ints low, high;
  for (int k = 0; k < WIDE; k++) {
    low[k] = k & S ? WIDE + k - S : k;
    high[k] = k & S ? WIDE + k : k + S;
  }
  const Floats first = __builtin_shuffle(a, b, low), second = __builtin_shuffle(a, b, high);
  a = first;
  b = second;
}

template <int S>
inline void exchange_rows(Floats rows[WIDE]) {
#pragma GCC unroll 16
  for (int i = 0; i < WIDE; i++)
    if (!(i & S)) exchange<S>(rows[i], rows[i + S]);
}

// Rows x columns of a tensor as columns x rows floats, with zeros up to ``wide``, a multiple of WIDE.
template <class T>
inline void load_transposed(const T* from, long stride, long rows, long count, float* to, long wide, long to_stride) {
  for (long i = 0; i < wide; i += WIDE)
    for (long j = 0; j < count; j += WIDE) {
      Floats block[WIDE];
      const long across = count - j < WIDE ? count - j : WIDE;
      for (int x = 0; x < WIDE; x++) {
        block[x] = Floats{};
        if (i + x >= rows) continue;
        const T* row = from + (i + x) * stride + j;
        if (across == WIDE)
          block[x] = load_wide(row);
        else
          for (long y = 0; y < across; y++) block[x][y] = load(row[y]);
      }
      exchange_rows<1>(block);
      exchange_rows<2>(block);
      exchange_rows<4>(block);
      exchange_rows<8>(block);
      for (long y = 0; y < across; y++) put(to + (j + y) * to_stride + i, block[y]);
    }
}

// The same up to a row's stride.
template <class T>
inline void load_transposed(const T* from, long stride, long rows, long count, float* to, long to_stride) {
  load_transposed(from, stride, rows, count, to, to_stride, to_stride);
}

// Dropout: a byte of a hashed counter decides an element (``seerec.kernels.draws`` has the same in torch).
struct Dropout {
  uint32_t seed, other;
  int dropped;  // of 256

  static Words mixed(Words x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
  }

  // What element ``part * WIDE + lane`` of a chunk is multiplied with, for all four parts.
  void factors(uint64_t chunk, Floats out[4]) const {
    Words lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    Words word = mixed(mixed(lane + static_cast<uint32_t>(chunk * WIDE) + seed) ^ other);
    Floats scale = all(256.0f / (256 - dropped));
    for (int part = 0; part < 4; part++) {
      Ints byte = reinterpret_cast<Ints&>(word) >> (8 * part) & 255;
      out[part] = byte < dropped ? Floats{} : scale;
    }
  }

  // Factors of the columns of one row; a row begins a chunk.
  void row(uint64_t row, long columns, float* out) const {
    long chunks = (columns + CHUNK - 1) / CHUNK;
    for (long c = 0; c < chunks; c++) {
      Floats four[4];
      factors(row * chunks + c, four);
      for (int part = 0; part < 4; part++) put(out + c * CHUNK + part * WIDE, four[part]);
    }
  }
};

}  // namespace seerec
