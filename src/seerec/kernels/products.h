// Products of a few dozen rows with a small matrix in two precisions, and the memory of one thread.
//
// Full: floats, on any processor. Half: operands rounded to 16 bits (bfloat16), sums in floats, on processors that have tiles for
// it (AMX); there one instruction multiplies 16 x 32 by 32 x 16. A matrix that many rows meet is made ready once, as ``Right``.

#pragma once

#include <algorithm>

#include "vector.h"

#if defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 11
#define SEEREC_HAS_TILES  // as far as the compiler is concerned
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace seerec {

constexpr float UNSEEN = -1e30f;

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

// A number of floats that is a multiple of WIDE: what the compiler makes of memcpy is slow for so few.
inline void copy(const float* from, long count, float* to) {
  for (long j = 0; j < count; j += WIDE) put(to + j, at(from + j));
}

// Full ------------------------------------------------------------------------------------------------------------------------

// ROWS x VECTORS of C = A B + bias, or of C += A B: enough sums at once to hide how long one addition takes.
template <int ROWS, int VECTORS>
void block_of(const float* a, long a_row, long a_column, const float* b, long b_row, const float* bias, float* c, long c_row, long k, bool add) {
  Floats total[ROWS][VECTORS];
  for (int j = 0; j < VECTORS; j++)
    for (int i = 0; i < ROWS; i++) total[i][j] = add ? at(c + i * c_row + j * WIDE) : bias ? at(bias + j * WIDE) : Floats{};
  for (long x = 0; x < k; x++) {
    Floats line[VECTORS];
    for (int j = 0; j < VECTORS; j++) line[j] = at(b + x * b_row + j * WIDE);
    for (int i = 0; i < ROWS; i++)
      for (int j = 0; j < VECTORS; j++) total[i][j] += a[i * a_row + x * a_column] * line[j];
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < VECTORS; j++) put(c + i * c_row + j * WIDE, total[i][j]);
}

template <int VECTORS>
void rows_of_blocks(const float* a, long a_row, long a_column, const float* b, long b_row, const float* bias, float* c, long c_row, long m,
                    long k, bool add) {
  long i = 0;
  const auto blocks = [&](auto block, long rows) {
    for (; i + rows <= m; i += rows) block(a + i * a_row, a_row, a_column, b, b_row, bias, c + i * c_row, c_row, k, add);
  };
  blocks(block_of<6, VECTORS>, 6);
  blocks(block_of<2, VECTORS>, 2);
  blocks(block_of<1, VECTORS>, 1);
}

// C (m x n) = A (m x k, with any strides) B (k x n) + bias, or added to C; n a multiple of WIDE, ``bias`` null for none.
inline void product(const float* a, long a_row, long a_column, const float* b, long b_row, const float* bias, float* c, long c_row, long m,
                    long n, long k, bool add) {
  long j = 0;
  const auto blocks = [&](auto rows, long columns) {
    for (; j + columns <= n; j += columns)
      rows(a, a_row, a_column, b + j, b_row, bias ? bias + j : nullptr, c + j, c_row, m, k, add);
  };
  blocks(rows_of_blocks<4>, 4 * WIDE);
  blocks(rows_of_blocks<2>, 2 * WIDE);
  blocks(rows_of_blocks<1>, WIDE);
}

struct Full {
  struct Right {
    const float* data;
    long row;
    Right from(long column) const { return {data + column, row}; }
    Right below(long k) const { return {data + k * row, row}; }
  };
  explicit Full(long) {}
  static long room(long k, long n) { return k * padded(n); }
  // B, k x n; ``room`` is memory for it, if it needs any.
  static Right right(const float* b, long b_row, long, long, float*) { return {b, b_row}; }
  // B given as n x k; ``room_row``: numbers between its rows.
  static Right turned(const float* b, long b_row, long k, long n, float* room, long room_row) {
    for (long j = 0; j < n; j += WIDE) load_transposed(b + j * b_row, b_row, std::min<long>(n - j, WIDE), k, room + j, WIDE, room_row);
    return {room, room_row};
  }
  static Right turned(const float* b, long b_row, long k, long n, float* room) { return turned(b, b_row, k, n, room, padded(n)); }
  // All of a matrix whose rows ``right`` has made ready in ``room``, some at a time.
  static Right whole(const float* b, long b_row, const float*) { return {b, b_row}; }
  // C (m x n) = A B + bias, or added to C; columns of C up to a whole vector are written.
  void times(const float* a, long a_row, Right b, const float* bias, float* c, long c_row, long m, long n, long k, bool add = false) {
    product(a, a_row, 1, b.data, b.row, bias, c, c_row, m, padded(n), k, add);
  }
  // C (m x n) += A' B, A k x m and B k x n.
  void add_turned(const float* a, long a_row, const float* b, long b_row, float* c, long c_row, long m, long n, long k) {
    product(a, 1, a_row, b, b_row, nullptr, c, c_row, m, n, k, true);
  }
};

// Half ------------------------------------------------------------------------------------------------------------------------

// Upper halves of floats, rounded to the nearest even, in the low bits.
inline Words rounded(Floats v) {
  const Words bits = reinterpret_cast<Words&>(v);
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// Two rows of floats as one of pairs of halves: of the first in the low bits.
inline Floats paired(Floats first, Floats second) {
  Words words = rounded(first) | rounded(second) << 16;
  return reinterpret_cast<Floats&>(words);
}

// Rows of floats as rows of halves, with zeros from ``count`` up to a row's stride (a multiple of 2 WIDE halves).
inline void halves_of(const float* from, long from_row, long rows, long count, uint16_t* to, long to_row) {
  for (long i = 0; i < rows; i++) {
    const float* row = from + i * from_row;
    BFloat16* out = reinterpret_cast<BFloat16*>(to + i * to_row);
    columns(count, [&](long j) { store_wide(out + j, at(row + j)); }, [&](long j) { store(out + j, row[j]); });
    std::fill(to + i * to_row + count, to + (i + 1) * to_row, 0);
  }
}

// k x n floats as k/2 x n pairs, n a multiple of WIDE; rows after k are zeros, up to a multiple of 2 WIDE.
inline void pairs_of(const float* from, long from_row, long k, long n, float* to, long to_row) {
  for (long i = 0; i < padded(k, 2 * WIDE); i += 2)
    for (long j = 0; j < n; j += WIDE)
      put(to + i / 2 * to_row + j,
          paired(i < k ? at(from + i * from_row + j) : Floats{}, i + 1 < k ? at(from + (i + 1) * from_row + j) : Floats{}));
}

// n x k floats as k/2 x n pairs of neighbours in a row; both with zeros up to whole tiles.
inline void pairs_across(const float* from, long from_row, long n, long k, float* to, long to_row) {
  const long deep = padded(k, 2 * WIDE);
  for (long j = 0; j < padded(n); j += WIDE)
    for (long i = 0; i < deep; i += 2 * WIDE) {
      Floats block[WIDE];
      uint16_t halves[2 * WIDE];
      for (int x = 0; x < WIDE; x++) {
        if (j + x >= n) {
          block[x] = Floats{};
          continue;
        }
        halves_of(from + (j + x) * from_row + i, 0, 1, std::min<long>(k - i, 2 * WIDE), halves, 2 * WIDE);
        std::memcpy(&block[x], halves, sizeof halves);
      }
      exchange_rows<1>(block);
      exchange_rows<2>(block);
      exchange_rows<4>(block);
      exchange_rows<8>(block);
      for (int y = 0; y < WIDE; y++) put(to + (i / 2 + y) * to_row + j, block[y]);
    }
}

#ifdef SEEREC_HAS_TILES
#define SEEREC_TILES __attribute__((target("amx-tile,amx-bf16")))

// Whether the processor has tiles and the system lets this process use them.
inline bool has_tiles() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned BF16 = 1u << 22, TILE = 1u << 24;
  constexpr long ASK = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM
  return (d & BF16) && (d & TILE) && syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
}

SEEREC_TILES inline void configure_tiles() {
  struct __attribute__((packed)) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = 16;
  asm volatile("" : : "r"(&config) : "memory");  // GCC believes that eight bytes of it are read
  _tile_loadconfig(&config);
}
SEEREC_TILES inline void release_tiles() { _tile_release(); }

// What C begins with: itself, a bias for all rows, zeros. Tiles are named by constants.
#define SEEREC_BEGIN(tile, at_row, at_column)                                             \
  if (add)                                                                                \
    _tile_loadd(tile, c + (at_row) * c_row + (at_column), c_row * 4);                     \
  else if (bias)                                                                          \
    _tile_loadd(tile, bias + (at_column), 0);                                             \
  else                                                                                    \
    _tile_zero(tile);

// C (rows x columns, each 16 or 32) from A (rows x 2 pairs) in halves and B (pairs x columns) in pairs.
SEEREC_TILES inline void tiles_of(const uint16_t* a, long a_row, const float* b, long b_row, const float* bias, float* c, long c_row, bool tall,
                                  bool broad, long deep, bool add) {
  SEEREC_BEGIN(0, 0, 0)
  if (broad) {
    SEEREC_BEGIN(1, 0, 16)
  }
  if (tall) {
    SEEREC_BEGIN(2, 16, 0)
  }
  if (tall && broad) {
    SEEREC_BEGIN(3, 16, 16)
  }
  for (long k = 0; k < deep; k += 32) {
    _tile_loadd(4, a + k, a_row * 2);
    _tile_loadd(6, b + k / 2 * b_row, b_row * 4);
    _tile_dpbf16ps(0, 4, 6);
    if (broad) {
      _tile_loadd(7, b + k / 2 * b_row + 16, b_row * 4);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (tall) {
      _tile_loadd(5, a + 16 * a_row + k, a_row * 2);
      _tile_dpbf16ps(2, 5, 6);
      if (broad) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_row * 4);
  if (broad) _tile_stored(1, c + 16, c_row * 4);
  if (tall) _tile_stored(2, c + 16 * c_row, c_row * 4);
  if (tall && broad) _tile_stored(3, c + 16 * c_row + 16, c_row * 4);
}
#undef SEEREC_BEGIN
#else
inline bool has_tiles() { return false; }
inline void configure_tiles() {}
inline void release_tiles() {}
inline void tiles_of(const uint16_t*, long, const float*, long, const float*, float*, long, bool, bool, long, bool) {}
#endif

class Half {
 public:
  struct Right {
    const float* data;
    long row;
    Right from(long column) const { return {data + column, row}; }
    Right below(long k) const { return {data + k / 2 * row, row}; }  // k even
  };
  // ``deepest``: the largest k.
  explicit Half(long deepest) : left_(ROWS / 2 * padded(deepest, 2 * WIDE)), turned_(left_.size()) { configure_tiles(); }
  ~Half() { release_tiles(); }
  Half(const Half&) = delete;

  static long room(long k, long n) { return padded(k, 2 * WIDE) / 2 * padded(n); }
  static Right right(const float* b, long b_row, long k, long n, float* room) {
    pairs_of(b, b_row, k, padded(n), room, padded(n));
    return {room, padded(n)};
  }
  static Right turned(const float* b, long b_row, long k, long n, float* room, long room_row) {
    pairs_across(b, b_row, n, k, room, room_row);
    return {room, room_row};
  }
  static Right turned(const float* b, long b_row, long k, long n, float* room) { return turned(b, b_row, k, n, room, padded(n)); }
  static Right whole(const float*, long b_row, const float* room) { return {room, padded(b_row)}; }
  void times(const float* a, long a_row, Right b, const float* bias, float* c, long c_row, long m, long n, long k, bool add = false) {
    const long deep = padded(k, 2 * WIDE);
    uint16_t* left = reinterpret_cast<uint16_t*>(left_.data());
    for (long i = 0; i < m; i += ROWS) {
      const long rows = std::min(ROWS, m - i);
      halves_of(a + i * a_row, a_row, rows, k, left, deep);
      meet(left, deep, b, bias, c + i * c_row, c_row, rows, padded(n), deep, add);
    }
  }
  void add_turned(const float* a, long a_row, const float* b, long b_row, float* c, long c_row, long m, long n, long k) {
    const long deep = padded(k, 2 * WIDE);  // at most ROWS: as many as there are queries in a block
    pairs_.resize(std::max<size_t>(pairs_.size(), deep / 2 * padded(std::max(m, n)) * 2));
    float *of_b = pairs_.data(), *of_a = of_b + deep / 2 * padded(std::max(m, n));
    pairs_of(b, b_row, k, padded(n), of_b, padded(n));
    pairs_of(a, a_row, k, padded(m), of_a, padded(m));
    for (long i = 0; i < m; i += ROWS) {
      const long rows = std::min(ROWS, m - i);
      load_transposed(of_a + i, padded(m), deep / 2, padded(rows), turned_.data(), deep / 2);
      meet(reinterpret_cast<uint16_t*>(turned_.data()), deep, {of_b, padded(n)}, nullptr, c + i * c_row, c_row, rows, padded(n), deep, true);
    }
  }

 private:
  static constexpr long ROWS = 32;
  // Of at most ROWS rows. Where the last of them do not fill a tile, that tile's C is a copy.
  void meet(const uint16_t* left, long left_row, Right b, const float* bias, float* c, long c_row, long m, long n, long deep, bool add) {
    for (long j = 0; j < n; j += 32) {
      const bool broad = j + 16 < n;
      if (m == 16 || m == 32) {
        tiles_of(left, left_row, b.data + j, b.row, bias ? bias + j : nullptr, c + j, c_row, m == 32, broad, deep, add);
        continue;
      }
      const long wide = broad ? 32 : 16;
      if (add)
        for (long i = 0; i < m; i++) copy(c + i * c_row + j, wide, corner_ + i * 32);
      tiles_of(left, left_row, b.data + j, b.row, bias ? bias + j : nullptr, corner_, 32, m > 16, broad, deep, add);
      for (long i = 0; i < m; i++) copy(corner_ + i * 32, wide, c + i * c_row + j);
    }
  }
  std::vector<float> left_, turned_, pairs_;
  alignas(64) float corner_[32 * 32];
};

// A linear layer; ``matrix`` is outputs x inputs.
struct Linear {
  const float *matrix, *bias;
  long in, out;
};

// The same made ready: for y = x W' + b, and for its gradient.
template <class P>
struct Ready {
  typename P::Right forward, backward;
  const float* bias;
  long in, out;
  static long room(const Linear& map, bool learns) {
    return P::room(map.in, map.out) + (learns ? P::room(map.out, map.in) : 0) + 2 * WIDE;
  }
  Ready(const Linear& map, bool learns, Room& room) : bias(map.bias), in(map.in), out(map.out) {
    forward = P::turned(map.matrix, in, in, out, room.take(P::room(in, out)));
    if (learns) backward = P::right(map.matrix, in, out, in, room.take(P::room(out, in)));
  }
  void apply(P& products, const float* x, float* y, long n) const { products.times(x, in, forward, bias, y, out, n, out, in); }
};

// Layers that all threads read.
template <class P>
struct Maps {
  Room room;
  std::vector<Ready<P>> maps;
  Maps(const std::vector<Linear>& layers, bool learns) : room(size(layers, learns)) {
    for (const Linear& layer : layers) maps.emplace_back(layer, learns, room);
  }
  const Ready<P>& operator[](long i) const { return maps[i]; }
  static long size(const std::vector<Linear>& layers, bool learns) {
    long floats = 0;
    for (const Linear& layer : layers) floats += Ready<P>::room(layer, learns);
    return floats;
  }
};

// to += from, by element; ``count`` a multiple of WIDE.
inline void add(const float* from, long count, float* to) {
  for (long j = 0; j < count; j += WIDE) put(to + j, at(to + j) + at(from + j));
}

// Gradients of y = x W' + b: adds those of W (inputs x outputs) and b, and writes that of x (or adds it).
template <class P>
void pull(P& products, const Ready<P>& map, const float* x, const float* of_y, long n, float* matrix, float* bias, float* of_x, bool adds) {
  if (bias)
    for (long i = 0; i < n; i++) add(of_y + i * map.out, map.out, bias);
  products.add_turned(x, map.in, of_y, map.out, matrix, map.out, map.in, map.out, n);
  products.times(of_y, map.out, map.backward, nullptr, of_x, map.in, n, map.in, map.out, adds);
}

// Gradients of a matrix, inputs x outputs as ``pull`` leaves them, as outputs x inputs.
inline void turn_back(const float* from, long in, long out, float* to) {
  for (long i = 0; i < out; i++)
    for (long j = 0; j < in; j++) to[i * in + j] = from[j * out + i];
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

}  // namespace seerec
