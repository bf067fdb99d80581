// The recursion of LCR-SER (eq. 2 to 6): K steps of self-attention, cross-attention and feed-forward network on both sides, and
// its gradient. ``seerec/models/lcr_ser.py`` says what it means.
//
// A block of at most QUERIES queries goes through all steps while everything between its start and its last state stays in the
// cache of one core; the gradient makes the block's steps again and goes back through them there. Queries of one row do not
// know of each other, so that rollouts are more queries. Axes: B rows, M queries of a row, L slots of a side's history, K
// steps, h heads, D columns of a state, F of the feed-forward network; D, F and a head's columns are multiples of WIDE.
//
// A history is read in one of two forms. Projected: keys and values of D columns, a head has e = D / h of them. Absorbed (no
// gradient): the states themselves are keys and values of all heads, and a query has h D columns.

#include <omp.h>

#include <algorithm>

#include "products.h"

namespace seerec {
namespace {

struct Norm {
  const float *gain, *shift;
  float epsilon;
};

constexpr long QUERIES = 32;
constexpr long FEW_ROWS = 16;  // of a block whose rows have one query each
constexpr int SIDES = 2;

enum Map { IN, OUT, CROSS_QUERY, CROSS_OUT, FEED_IN, FEED_OUT, MAPS };
enum Join { AFTER_SELF, AFTER_CROSS, AFTER_FEED, JOINS };
enum Site { SELF, SELF_JOIN, CROSS, CROSS_JOIN, FEED, FEED_JOIN, SITES };
enum Crossing { SKIPPED, NORM_ALONE, CROSSED };

struct Side {
  long l;
  const float *context, *start, *position;  // B L D, B M D, K D
  const uint8_t* visible;  // B M L
  Linear maps[MAPS];
  Norm norms[JOINS];
  const uint32_t* draws;  // K SITES 3
  float *out, *cross;  // B M K D; B M K L of the other side, mean over heads, or null
};

struct Task {
  long b, m, d, f, heads, steps;
  bool absorbed;
  const uint8_t* crossing;  // K
  Side sides[SIDES];

  long key_columns() const { return absorbed ? d : d / heads; }
  long apart() const { return absorbed ? 0 : d / heads; }
  long query_columns() const { return heads * key_columns(); }
  long own_columns() const { return absorbed ? query_columns() : 5 * d; }
  long columns(int source, long k) const { return padded(sides[source].l + k + 1); }
  std::vector<Linear> layers() const {
    std::vector<Linear> found;
    for (const Side& side : sides) found.insert(found.end(), side.maps, side.maps + MAPS);
    return found;
  }
  // Inputs of the deepest product.
  long deepest() const { return std::max({5 * d, f, query_columns(), sides[0].l, sides[1].l}); }
  long widest() const { return std::max(columns(0, steps - 1), columns(1, steps - 1)); }
  Dropout dropout(int side, long k, Site site) const {
    const uint32_t* draws = sides[side].draws + (k * SITES + site) * 3;
    return {draws[0], draws[1], static_cast<int>(draws[2])};
  }
};

enum Reader { BY_SELF, BY_CROSS, READERS };

// One head's keys and values of one row's history, and what their gradients need.
template <class Q>
struct Reading {
  typename Q::Right keys, values, keys_back, values_back;
};

// One row's history of one side, as the two attentions that read it want it.
template <class P, class Q>
struct History {
  float* projected;
  std::vector<float*> rooms;
  std::vector<Reading<Q>> readings;  // READERS h, or one for all

  static long count(const Task& t) { return t.absorbed ? 1 : READERS * t.heads; }
  static long size(const Task& t, long l) { return std::max(Q::room(t.key_columns(), l), Q::room(l, t.key_columns())); }
  static long room(const Task& t, long l, bool learns) {
    return l * 4 * t.d + WIDE + count(t) * (learns ? 4 : 2) * (size(t, l) + WIDE);
  }
  History(const Task& t, long l, bool learns, Room& room) : projected(room.take(l * 4 * t.d)), readings(count(t)) {
    for (long i = 0; i < count(t) * (learns ? 4 : 2); i++) rooms.push_back(room.take(size(t, l)));
  }
  const Reading<Q>& reading(const Task& t, int reader, long head) const { return readings[t.absorbed ? 0 : reader * t.heads + head]; }

  void read(const Task& t, const Maps<P>& maps, P& products, int side, long row) {
    const Side& s = t.sides[side];
    const long d = t.d, e = d / t.heads, l = s.l;
    const float* x = s.context + row * l * d;
    if (t.absorbed) {
      readings[0] = {Q::turned(x, d, d, l, rooms[0]), Q::right(x, d, l, d, rooms[1]), {}, {}};
      return;
    }
    const Ready<P>& in = maps[side * MAPS + IN];
    products.times(x, d, in.forward.from(d), in.bias + d, projected, 4 * d, l, 4 * d, d);
    const long pieces = rooms.size() / readings.size();
    for (size_t i = 0; i < readings.size(); i++) {
      const float *keys = projected + i / t.heads * 2 * d + i % t.heads * e, *values = keys + d;
      float* const* to = rooms.data() + i * pieces;
      Reading<Q>& reading = readings[i];
      reading.keys = Q::turned(keys, 4 * d, e, l, to[0]);
      reading.values = Q::right(values, 4 * d, l, e, to[1]);
      if (pieces == 2) continue;
      reading.keys_back = Q::right(keys, 4 * d, l, e, to[2]);
      reading.values_back = Q::turned(values, 4 * d, e, l, to[3]);
    }
  }
};

// What one step of one side keeps for later steps and for the gradient; n rows of a block.
struct Step {
  float *e, *p;  // step input; its query and own keys and values
  float *weights, *mixed, *normed, *inverse, *f;
  float *query, *cross_weights, *cross_mixed, *cross_normed, *cross_inverse, *g;
  float *z, *feed_normed, *feed_inverse, *h;

  static long room(const Task& t) {
    return QUERIES * (8 * t.d + 2 * t.heads * t.widest() + t.own_columns() + 3 * t.query_columns() + t.f + 3) + 17 * WIDE;
  }
  Step(const Task& t, Room& room) {
    const auto rows = [&](long columns) { return room.take(QUERIES * columns); };
    e = rows(t.d), p = rows(t.own_columns());
    weights = rows(t.heads * t.widest()), mixed = rows(t.query_columns()), normed = rows(t.d), inverse = rows(1), f = rows(t.d);
    query = rows(t.query_columns()), cross_weights = rows(t.heads * t.widest()), cross_mixed = rows(t.query_columns());
    cross_normed = rows(t.d), cross_inverse = rows(1), g = rows(t.d);
    z = rows(t.f), feed_normed = rows(t.d), feed_inverse = rows(1), h = rows(t.d);
  }
  const float* own_key(const Task& t, int reader) const { return t.absorbed ? e : p + (1 + 2 * reader) * t.d; }
  const float* own_value(const Task& t, int reader) const { return t.absorbed ? e : p + (2 + 2 * reader) * t.d; }
};

// Queries first .. first + n - 1 of all B M; each reads the history of its row.
struct Block {
  long first, n;
};

template <class P, class Q>
struct Memory {
  P products;
  Q attention;
  std::vector<Step> tape;  // K SIDES
  std::vector<History<P, Q>> histories;  // rows of a block, SIDES
  float *update, *kept, *factors;
  uint8_t* seen;

  static long room(const Task& t, long rows, bool learns) {
    long floats = t.steps * SIDES * Step::room(t) + QUERIES * (t.d + t.widest()) + padded(std::max(t.widest(), std::max(t.f, t.d)), CHUNK) + t.widest() + 4 * WIDE;
    for (int a = 0; a < SIDES; a++) floats += rows * History<P, Q>::room(t, t.sides[a].l, learns);
    return floats;
  }
  Memory(const Task& t, long rows, bool learns, Room& room) : products(t.deepest()), attention(t.deepest()) {
    for (long i = 0; i < t.steps * SIDES; i++) tape.emplace_back(t, room);
    for (long i = 0; i < rows * SIDES; i++) histories.emplace_back(t, t.sides[i % SIDES].l, learns, room);
    update = room.take(QUERIES * t.d);
    kept = room.take(QUERIES * t.widest());
    factors = room.take(padded(std::max(t.widest(), std::max(t.f, t.d)), CHUNK));
    seen = reinterpret_cast<uint8_t*>(room.take(t.widest()));
  }
  Step& at(long k, int side) { return tape[k * SIDES + side]; }
};

// Which attention: ``side`` reads ``source`` at step k.
struct Attention {
  int side, source;
  Reader reader;
  long k;
  Site site() const { return reader == BY_SELF ? SELF : CROSS; }
};

// Factors of the weights of one query and head, or null for none.
const float* weight_factors(const Task& t, const Attention& a, long query, long head, float* room) {
  const Dropout dropout = t.dropout(a.side, a.k, a.site());
  if (!dropout.dropped) return nullptr;
  const long place = (query / t.m * t.heads + head) * t.m + query % t.m;
  dropout.row(place, t.columns(a.source, a.k), room);
  return room;
}

// mixed = softmax(query keys' / sqrt(e)) values over the history and the steps' own; ``weights`` (h n widest) before dropout.
template <class P, class Q>
void attend(const Task& t, const Attention& a, const Block& block, Memory<P, Q>& memory, const float* query, float* weights, float* mixed) {
  const long l = t.sides[a.source].l, columns = t.columns(a.source, a.k), wide = t.widest();
  const long kw = t.key_columns(), qw = t.query_columns();
  const float scale = 1 / std::sqrt(static_cast<float>(kw));
  const uint8_t* visible = t.sides[a.source].visible;
  const long row = block.first / t.m;
  // Queries of one row share its keys; in the absorbed form, so do the heads of each query.
  const long together = t.absorbed ? 1 : std::min(block.n, t.m);
  for (long i = 0; i < block.n; i += together) {
    const History<P, Q>& history = memory.histories[((block.first + i) / t.m - row) * SIDES + a.source];
    if (t.absorbed)
      memory.attention.times(query + i * qw, kw, history.reading(t, a.reader, 0).keys, nullptr, weights + i * wide, block.n * wide, t.heads, l, kw);
    else
      for (long head = 0; head < t.heads; head++)
        memory.attention.times(query + i * qw + head * kw, qw, history.reading(t, a.reader, head).keys, nullptr,
                               weights + (head * block.n + i) * wide, wide, together, l, kw);
  }
  for (long head = 0; head < t.heads; head++) {
    const long apart = head * t.apart();
    for (long i = 0; i < block.n; i++) {
      float* p = weights + (head * block.n + i) * wide;
      const long at_query = block.first + i;
      std::memcpy(memory.seen, visible + at_query * l, l);
      std::memset(memory.seen + l, 0, columns - l);
      for (long j = 0; j < columns; j += WIDE) put(p + j, load_bytes(memory.seen + j) != 0 ? at(p + j) * scale : all(UNSEEN));
      for (long o = 0; o <= a.k; o++) {
        const Step& own = memory.at(o, a.source);
        const long stride = t.absorbed ? t.d : t.own_columns();
        p[l + o] = inner(query + i * qw + head * kw, own.own_key(t, a.reader) + i * stride + apart, kw) * scale;
      }
      Floats most = at(p), totals{};
      for (long j = WIDE; j < columns; j += WIDE) most = at(p + j) > most ? at(p + j) : most;
      const float top = largest(most);
      for (long j = 0; j < columns; j += WIDE) {
        const Floats v = at(p + j) > UNSEEN / 2 ? exponential(at(p + j) - top) : Floats{};
        put(p + j, v);
        totals += v;
      }
      const float by = 1 / sum(totals);  // a query sees its own step input at least
      for (long j = 0; j < columns; j += WIDE) put(p + j, at(p + j) * by);
      const float* factors = weight_factors(t, a, at_query, head, memory.factors);
      if (factors)
        for (long j = 0; j < columns; j += WIDE) put(memory.kept + i * wide + j, at(p + j) * at(factors + j));
    }
    const bool drops = t.dropout(a.side, a.k, a.site()).dropped;
    const float* kept = drops ? memory.kept : weights + head * block.n * wide;
    // In the absorbed form (which drops nothing) a query's heads mix the same values: the last of them brings all.
    for (long i = 0; i < block.n && (!t.absorbed || head + 1 == t.heads); i += together) {
      const History<P, Q>& history = memory.histories[((block.first + i) / t.m - row) * SIDES + a.source];
      const auto values = history.reading(t, a.reader, head).values;
      if (t.absorbed)
        memory.attention.times(weights + i * wide, block.n * wide, values, nullptr, mixed + i * qw, kw, t.heads, kw, l);
      else
        memory.attention.times(kept + i * wide, wide, values, nullptr, mixed + i * qw + head * kw, qw, together, kw, l);
    }
    if (t.absorbed) continue;
    for (long i = 0; i < block.n; i++)
      for (long o = 0; o <= a.k; o++) {
        const float* own = memory.at(o, a.source).own_value(t, a.reader) + i * t.own_columns() + apart;
        add_scaled(kept[i * wide + l + o], own, kw, mixed + i * qw + head * kw);
      }
  }
  if (!t.absorbed) return;
  for (long i = 0; i < block.n; i++)
    for (long o = 0; o <= a.k; o++)
      for (long head = 0; head < t.heads; head++)
        add_scaled(weights[(head * block.n + i) * wide + l + o], memory.at(o, a.source).e + i * t.d, t.d, mixed + i * qw + head * kw);
}

// y = norm(x + dropout(update)) of n rows, the first of which is ``first`` of all; an update of null is zero.
void join(const Norm& norm, const Dropout& dropout, long first, long n, long d, const float* x, const float* update, float* factors,
          float* y, float* normed, float* inverse) {
  for (long i = 0; i < n; i++) {
    const float *xi = x + i * d, *ui = update ? update + i * d : nullptr;
    float *yi = y + i * d, *ni = normed + i * d;
    if (ui && dropout.dropped) dropout.row(first + i, d, factors);
    Floats totals{}, squares{};
    for (long j = 0; j < d; j += WIDE) {
      Floats v = at(xi + j);
      if (ui) v += dropout.dropped ? at(ui + j) * at(factors + j) : at(ui + j);
      put(ni + j, v);
      totals += v;
    }
    const float mean = sum(totals) / d;
    for (long j = 0; j < d; j += WIDE) squares += (at(ni + j) - mean) * (at(ni + j) - mean);
    inverse[i] = 1 / std::sqrt(sum(squares) / d + norm.epsilon);
    for (long j = 0; j < d; j += WIDE) {
      const Floats v = (at(ni + j) - mean) * inverse[i];
      put(ni + j, v);
      put(yi + j, v * at(norm.gain + j) + at(norm.shift + j));
    }
  }
}

// All steps of a block.
template <class P, class Q>
void forward(const Task& t, const Maps<P>& maps, const Block& block, Memory<P, Q>& memory) {
  const long n = block.n, d = t.d;
  for (long k = 0; k < t.steps; k++) {
    for (int a = 0; a < SIDES; a++) {
      const Side& side = t.sides[a];
      Step& step = memory.at(k, a);
      const float* from = k ? memory.at(k - 1, a).h : side.start + block.first * d;
      for (long i = 0; i < n; i++)
        for (long j = 0; j < d; j += WIDE) put(step.e + i * d + j, at(from + i * d + j) + at(side.position + k * d + j));
      maps[a * MAPS + IN].apply(memory.products, step.e, step.p, n);
    }
    for (int a = 0; a < SIDES; a++) {
      const Side& side = t.sides[a];
      Step& step = memory.at(k, a);
      const float* query = step.p;
      if (!t.absorbed) {  // whose queries stand apart
        for (long i = 0; i < n; i++) copy(step.p + i * 5 * d, d, step.query + i * d);
        query = step.query;
      }
      attend(t, {a, a, BY_SELF, k}, block, memory, query, step.weights, step.mixed);
      maps[a * MAPS + OUT].apply(memory.products, step.mixed, memory.update, n);
      join(side.norms[AFTER_SELF], t.dropout(a, k, SELF_JOIN), block.first, n, d, step.e, memory.update, memory.factors, step.f,
           step.normed, step.inverse);
      if (t.crossing[k] == CROSSED) {
        maps[a * MAPS + CROSS_QUERY].apply(memory.products, step.f, step.query, n);
        attend(t, {a, 1 - a, BY_CROSS, k}, block, memory, step.query, step.cross_weights, step.cross_mixed);
        maps[a * MAPS + CROSS_OUT].apply(memory.products, step.cross_mixed, memory.update, n);
      }
      if (t.crossing[k] == SKIPPED)
        copy(step.f, n * d, step.g);
      else
        join(side.norms[AFTER_CROSS], t.dropout(a, k, CROSS_JOIN), block.first, n, d, step.f,
             t.crossing[k] == CROSSED ? memory.update : nullptr, memory.factors, step.g, step.cross_normed, step.cross_inverse);
      maps[a * MAPS + FEED_IN].apply(memory.products, step.g, step.z, n);
      const Dropout dropout = t.dropout(a, k, FEED);
      for (long i = 0; i < n; i++) {
        if (dropout.dropped) dropout.row(block.first + i, t.f, memory.factors);
        for (long j = 0; j < t.f; j += WIDE) {
          const Floats v = at(step.z + i * t.f + j) > 0 ? at(step.z + i * t.f + j) : Floats{};
          put(step.z + i * t.f + j, dropout.dropped ? v * at(memory.factors + j) : v);
        }
      }
      maps[a * MAPS + FEED_OUT].apply(memory.products, step.z, memory.update, n);
      join(side.norms[AFTER_FEED], t.dropout(a, k, FEED_JOIN), block.first, n, d, step.g, memory.update, memory.factors, step.h,
           step.feed_normed, step.feed_inverse);
    }
  }
}

// Blocks of some rows: one row and QUERIES of its queries at a time, or several rows of few queries. Calls ``use`` for each.
template <class Use>
void blocks_of(const Task& t, long row, long rows, Use use) {
  if (rows > 1) return use(Block{row * t.m, rows * t.m});
  for (long q = 0; q < t.m; q += QUERIES) use(Block{row * t.m + q, std::min(QUERIES, t.m - q)});
}

template <class P, class Q>
void run(const Task& t, int threads) {
  const Maps<P> maps(t.layers(), false);
  const long together = std::max(1L, std::min(FEW_ROWS, QUERIES / t.m));
#pragma omp parallel num_threads(threads)
  {
    Room room(Memory<P, Q>::room(t, together, false));
    Memory<P, Q> memory(t, together, false, room);
#pragma omp for schedule(static)
    for (long row = 0; row < t.b; row += together) {
      const long rows = std::min(together, t.b - row);
      for (long i = 0; i < rows * SIDES; i++) memory.histories[i].read(t, maps, memory.products, i % SIDES, row + i / SIDES);
      blocks_of(t, row, rows, [&](const Block& block) {
        forward(t, maps, block, memory);
        for (int a = 0; a < SIDES; a++)
          for (long k = 0; k < t.steps; k++) {
            const Step& step = memory.at(k, a);
            for (long i = 0; i < block.n; i++)
              copy(step.h + i * t.d, t.d, t.sides[a].out + ((block.first + i) * t.steps + k) * t.d);
            if (!t.sides[a].cross || t.crossing[k] != CROSSED) continue;
            const long l = t.sides[1 - a].l;
            for (long i = 0; i < block.n; i++) {
              float* to = t.sides[a].cross + ((block.first + i) * t.steps + k) * l;
              std::fill(to, to + l, 0.0f);
              for (long head = 0; head < t.heads; head++)
                add_scaled(1.0f / t.heads, step.cross_weights + (head * block.n + i) * t.widest(), l, to);
            }
          }
      });
    }
  }
}

// The gradient --------------------------------------------------------------------------------------------------------------

// Gradients of one side's weights: of each map matrix (inputs x outputs here) and bias, of each norm gain and shift, of positions.
struct Learned {
  float *matrix[MAPS], *bias[MAPS], *gain[JOINS], *shift[JOINS], *position;

  static long room(const Task& t, const Side& side) {
    long floats = 2 * JOINS * t.d + t.steps * t.d;
    for (const Linear& map : side.maps) floats += map.in * map.out + map.out;
    return floats;
  }
  Learned(const Task& t, const Side& side, float* next) {
    for (int i = 0; i < MAPS; i++) {
      matrix[i] = next, next += side.maps[i].in * side.maps[i].out;
      bias[i] = next, next += side.maps[i].out;
    }
    for (int i = 0; i < JOINS; i++) {
      gain[i] = next, next += t.d;
      shift[i] = next, next += t.d;
    }
    position = next;
  }
};

struct SideGradient {
  const float* out;  // B M K D
  float *context, *start;  // B L D, B M D
  float* weights;  // as Learned
};

// Of a block on the way back.
struct Back {
  std::vector<float*> own;  // K SIDES, of p
  float *of_h[SIDES], *of_history[SIDES];  // n D; L 4D
  float *of_x, *of_update, *of_mixed, *of_query, *of_z, *of_weights;

  static long room(const Task& t) {
    const long l = t.sides[0].l + t.sides[1].l;
    return QUERIES * (t.steps * SIDES * 5 * t.d + 6 * t.d + t.f + t.widest()) + l * 4 * t.d + (t.steps * SIDES + 10) * WIDE;
  }
  Back(const Task& t, Room& room) {
    for (long i = 0; i < t.steps * SIDES; i++) own.push_back(room.take(QUERIES * 5 * t.d));
    for (int a = 0; a < SIDES; a++) {
      of_h[a] = room.take(QUERIES * t.d);
      of_history[a] = room.take(t.sides[a].l * 4 * t.d);
    }
    of_x = room.take(QUERIES * t.d), of_update = room.take(QUERIES * t.d), of_mixed = room.take(QUERIES * t.d);
    of_query = room.take(QUERIES * t.d), of_z = room.take(QUERIES * t.f), of_weights = room.take(QUERIES * t.widest());
  }
};

// Gradients of ``join`` from that of y; ``of_update`` null for none.
void join_back(const Norm& norm, const Dropout& dropout, long first, long n, long d, const float* of_y, const float* normed,
               const float* inverse, float* factors, float* of_x, float* of_update, float* gain, float* shift) {
  for (long i = 0; i < n; i++) {
    const float *gi = of_y + i * d, *ni = normed + i * d;
    Floats means{}, alongs{};
    for (long j = 0; j < d; j += WIDE) {
      const Floats raw = at(gi + j), v = at(ni + j), of = raw * at(norm.gain + j);
      put(gain + j, at(gain + j) + raw * v);
      put(shift + j, at(shift + j) + raw);
      means += of;
      alongs += of * v;
    }
    const float mean = sum(means) / d, along = sum(alongs) / d;
    if (of_update && dropout.dropped) dropout.row(first + i, d, factors);
    for (long j = 0; j < d; j += WIDE) {
      const Floats of = (at(gi + j) * at(norm.gain + j) - mean - at(ni + j) * along) * inverse[i];
      put(of_x + i * d + j, of);
      if (of_update) put(of_update + i * d + j, dropout.dropped ? of * at(factors + j) : of);
    }
  }
}

// Gradients of ``attend`` from that of ``mixed``: writes ``of_query`` (n rows, ``query_row`` apart), adds to the history's and the steps' own.
template <class P, class Q>
void attend_back(const Task& t, const Attention& a, const Block& block, Memory<P, Q>& memory, Back& back, const float* query, const float* weights,
                 const float* of_mixed, float* of_query, long query_row) {
  const long l = t.sides[a.source].l, columns = t.columns(a.source, a.k), wide = t.widest(), d = t.d, e = d / t.heads;
  const float scale = 1 / std::sqrt(static_cast<float>(e));
  const long own_key = (1 + 2 * a.reader) * d, own_value = own_key + d;
  for (long head = 0; head < t.heads; head++) {
    const long column = head * e;
    const float* p = weights + head * block.n * wide;
    const Reading<Q>& reading = memory.histories[a.source].reading(t, a.reader, head);
    memory.attention.times(of_mixed + column, d, reading.values_back, nullptr, back.of_weights, wide, block.n, l, e);
    for (long i = 0; i < block.n; i++) {
      const float *pi = p + i * wide, *of = of_mixed + i * d + column, *q = query + i * d + column;
      float *dp = back.of_weights + i * wide, *kept = memory.kept + i * wide;
      for (long o = 0; o <= a.k; o++) dp[l + o] = inner(of, memory.at(o, a.source).p + i * 5 * d + own_value + column, e);
      for (long j = l + a.k + 1; j < columns; j++) dp[j] = 0;
      const float* factors = weight_factors(t, a, block.first + i, head, memory.factors);
      Floats deltas{};
      for (long j = 0; j < columns; j += WIDE) {
        const Floats factor = factors ? at(factors + j) : all(1), g = at(dp + j) * factor;
        put(kept + j, at(pi + j) * factor);
        put(dp + j, g);
        deltas += at(pi + j) * g;
      }
      const float delta = sum(deltas);
      for (long j = 0; j < columns; j += WIDE) put(dp + j, at(pi + j) * (at(dp + j) - delta) * scale);
      float* of_q = of_query + i * query_row + column;
      for (long x = 0; x < e; x += WIDE) put(of_q + x, Floats{});
      for (long o = 0; o <= a.k; o++) {
        float* own = back.own[o * SIDES + a.source] + i * 5 * d;
        add_scaled(dp[l + o], memory.at(o, a.source).p + i * 5 * d + own_key + column, e, of_q);
        add_scaled(dp[l + o], q, e, own + own_key + column);
        add_scaled(kept[l + o], of, e, own + own_value + column);
      }
    }
    float* of_history = back.of_history[a.source] + 2 * a.reader * d + column;
    memory.attention.times(back.of_weights, wide, reading.keys_back, nullptr, of_query + column, query_row, block.n, e, l, true);
    memory.attention.add_turned(back.of_weights, wide, query + column, d, of_history, 4 * d, l, e, block.n);
    memory.attention.add_turned(memory.kept, wide, of_mixed + column, d, of_history + d, 4 * d, l, e, block.n);
  }
}

template <class P, class Q>
void backward(const Task& t, const Maps<P>& maps, const Block& block, Memory<P, Q>& memory, Back& back, const SideGradient gradients[SIDES], Learned learned[SIDES]) {
  const long n = block.n, d = t.d;
  for (float* own : back.own) std::fill(own, own + n * 5 * d, 0.0f);
  for (int a = 0; a < SIDES; a++) std::fill(back.of_h[a], back.of_h[a] + n * d, 0.0f);
  for (long k = t.steps; k-- > 0;) {
    for (int a = 0; a < SIDES; a++) {
      const Side& side = t.sides[a];
      Learned& to = learned[a];
      Step& step = memory.at(k, a);
      float* of_h = back.of_h[a];
      for (long i = 0; i < n; i++) add(gradients[a].out + ((block.first + i) * t.steps + k) * d, d, of_h + i * d);
      // h = norm(g + dropout(W2 dropout(relu(W1 g))))
      join_back(side.norms[AFTER_FEED], t.dropout(a, k, FEED_JOIN), block.first, n, d, of_h, step.feed_normed, step.feed_inverse,
                memory.factors, back.of_x, back.of_update, to.gain[AFTER_FEED], to.shift[AFTER_FEED]);
      pull(memory.products, maps[a * MAPS + FEED_OUT], step.z, back.of_update, n, to.matrix[FEED_OUT], to.bias[FEED_OUT], back.of_z, false);
      const Dropout dropout = t.dropout(a, k, FEED);
      const float kept = 256.0f / (256 - dropout.dropped);
      for (long j = 0; j < n * t.f; j += WIDE) put(back.of_z + j, at(step.z + j) > 0 ? at(back.of_z + j) * kept : Floats{});
      pull(memory.products, maps[a * MAPS + FEED_IN], step.g, back.of_z, n, to.matrix[FEED_IN], to.bias[FEED_IN], back.of_x, true);
      // g = norm(f + dropout(W attention(f)))
      if (t.crossing[k] != SKIPPED) {
        const bool crossed = t.crossing[k] == CROSSED;
        std::swap(back.of_x, back.of_h[a]);
        join_back(side.norms[AFTER_CROSS], t.dropout(a, k, CROSS_JOIN), block.first, n, d, back.of_h[a], step.cross_normed,
                  step.cross_inverse, memory.factors, back.of_x, crossed ? back.of_update : nullptr, to.gain[AFTER_CROSS],
                  to.shift[AFTER_CROSS]);
        if (crossed) {
          pull(memory.products, maps[a * MAPS + CROSS_OUT], step.cross_mixed, back.of_update, n, to.matrix[CROSS_OUT], to.bias[CROSS_OUT], back.of_mixed, false);
          attend_back(t, {a, 1 - a, BY_CROSS, k}, block, memory, back, step.query, step.cross_weights, back.of_mixed, back.of_query, d);
          pull(memory.products, maps[a * MAPS + CROSS_QUERY], step.f, back.of_query, n, to.matrix[CROSS_QUERY], to.bias[CROSS_QUERY], back.of_x, true);
        }
      }
      // f = norm(e + dropout(W attention(e)))
      join_back(side.norms[AFTER_SELF], t.dropout(a, k, SELF_JOIN), block.first, n, d, back.of_x, step.normed, step.inverse, memory.factors,
                back.of_h[a], back.of_update, to.gain[AFTER_SELF], to.shift[AFTER_SELF]);
      pull(memory.products, maps[a * MAPS + OUT], step.mixed, back.of_update, n, to.matrix[OUT], to.bias[OUT], back.of_mixed, false);
      for (long i = 0; i < n; i++) copy(step.p + i * 5 * d, d, step.query + i * d);  // the cross query is done with
      attend_back(t, {a, a, BY_SELF, k}, block, memory, back, step.query, step.weights, back.of_mixed, back.own[k * SIDES + a], 5 * d);
    }
    for (int a = 0; a < SIDES; a++) {  // both sides have read what both made of their step inputs
      pull(memory.products, maps[a * MAPS + IN], memory.at(k, a).e, back.own[k * SIDES + a], n, learned[a].matrix[IN], learned[a].bias[IN], back.of_h[a], true);
      for (long i = 0; i < n; i++) add(back.of_h[a] + i * d, d, learned[a].position + k * d);
    }
  }
  for (int a = 0; a < SIDES; a++) copy(back.of_h[a], n * d, gradients[a].start + block.first * d);
}

template <class P, class Q>
void run_back(const Task& t, const SideGradient gradients[SIDES], int threads) {
  const Maps<P> maps(t.layers(), true);
  const long sizes[SIDES] = {Learned::room(t, t.sides[0]), Learned::room(t, t.sides[1])};
  std::vector<std::vector<float>> of_threads(threads * SIDES);
#pragma omp parallel num_threads(threads)
  {
    Room room(Memory<P, Q>::room(t, 1, true) + Back::room(t));
    Memory<P, Q> memory(t, 1, true, room);
    Back back(t, room);
    std::vector<float>* mine = of_threads.data() + omp_get_thread_num() * SIDES;
    for (int a = 0; a < SIDES; a++) mine[a].assign(sizes[a] + WIDE, 0.0f);
    Learned learned[SIDES] = {{t, t.sides[0], mine[0].data()}, {t, t.sides[1], mine[1].data()}};
#pragma omp for schedule(static)
    for (long row = 0; row < t.b; row++) {
      for (int a = 0; a < SIDES; a++) {
        memory.histories[a].read(t, maps, memory.products, a, row);
        std::fill(back.of_history[a], back.of_history[a] + t.sides[a].l * 4 * t.d, 0.0f);
      }
      blocks_of(t, row, 1, [&](const Block& block) {
        forward(t, maps, block, memory);
        backward(t, maps, block, memory, back, gradients, learned);
      });
      for (int a = 0; a < SIDES; a++) {  // the last four of the five things that IN makes
        const long d = t.d, l = t.sides[a].l;
        const Ready<P>& in = maps[a * MAPS + IN];
        const float *x = t.sides[a].context + row * l * d, *of_history = back.of_history[a];
        for (long i = 0; i < l; i++) add(of_history + i * 4 * d, 4 * d, learned[a].bias[IN] + d);
        memory.products.add_turned(x, d, of_history, 4 * d, learned[a].matrix[IN] + d, 5 * d, d, 4 * d, l);
        memory.products.times(of_history, 4 * d, in.backward.below(d), nullptr, gradients[a].context + row * l * d, d, l, d, 4 * d);
      }
    }
  }
  for (int a = 0; a < SIDES; a++) {
    std::vector<float> total(sizes[a], 0.0f);
    for (int thread = 0; thread < threads; thread++) {
      const std::vector<float>& mine = of_threads[thread * SIDES + a];
      for (long j = 0; j < (mine.empty() ? 0 : sizes[a]); j++) total[j] += mine[j];
    }
    const Learned from(t, t.sides[a], total.data()), to(t, t.sides[a], gradients[a].weights);
    std::copy(total.begin(), total.end(), gradients[a].weights);
    for (int i = 0; i < MAPS; i++) {
      const Linear& map = t.sides[a].maps[i];
      turn_back(from.matrix[i], map.in, map.out, to.matrix[i]);
    }
  }
}

}  // namespace
}  // namespace seerec

// ``sizes``: B M D F h K, L of both sides, whether the absorbed form, whether in halves. By side: ``data`` context, start, position,
// out, cross; ``maps`` matrix and bias of each map; ``norms`` gain and shift of each norm. ``epsilons``: by side and norm. With
// ``taken`` (by side: gradient of out, of context, of start, of the weights) the gradient, else forward.
extern "C" __attribute__((visibility("default"))) void seerec_latent(
    const long* sizes, const uint8_t* crossing, float* const* data, const uint8_t* const* visible, const float* const* maps, const float* const* norms,
    const float* epsilons, const uint32_t* draws, float* const* taken, int threads) {
  using namespace seerec;
  Task t{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[8] != 0, crossing, {}};
  const long q = t.query_columns(), d = t.d, f = t.f;
  const bool half = sizes[9];
  const long shapes[MAPS][2] = {{d, t.own_columns()}, {q, d}, {d, q}, {q, d}, {d, f}, {f, d}};
  SideGradient gradients[SIDES];
  for (int a = 0; a < SIDES; a++) {
    float* const* of = data + 5 * a;
    Side& side = t.sides[a];
    side = {sizes[6 + a], of[0], of[1], of[2], visible[a], {}, {}, draws + a * t.steps * SITES * 3, of[3], of[4]};
    for (int i = 0; i < MAPS; i++) {
      const float* const* map = maps + (a * MAPS + i) * 2;
      side.maps[i] = {map[0], map[1], shapes[i][0], shapes[i][1]};
    }
    for (int i = 0; i < JOINS; i++) {
      const float* const* norm = norms + (a * JOINS + i) * 2;
      side.norms[i] = {norm[0], norm[1], epsilons[a * JOINS + i]};
    }
    if (taken) gradients[a] = {taken[4 * a], taken[4 * a + 1], taken[4 * a + 2], taken[4 * a + 3]};
  }
  if (taken)
    half ? run_back<Half, Half>(t, gradients, threads) : run_back<Full, Full>(t, gradients, threads);
  else if (!half)
    run<Full, Full>(t, threads);
  else
    t.absorbed ? run<Half, Full>(t, threads) : run<Half, Half>(t, threads);
}

// Whether products in halves can be asked for.
extern "C" __attribute__((visibility("default"))) int seerec_has_halves() { return seerec::has_tiles(); }
