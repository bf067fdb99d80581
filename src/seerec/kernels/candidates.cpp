// Scores of candidates that attend to two histories and to states of a trajectory's own (LCR-SER eq. 8 and 10), and their gradient.
//
// For a candidate e, over the states x of both sides, side by side: p = softmax of e with the states' keys, a side at a time;
//   <sum p x, e> + MLP(sum p v + W e + known).
// What belongs to the history is made ready once for a row, what belongs to a target and its candidates once for all trajectories
// of the target, and CANDIDATES of them go through while everything stays in the cache of one core. Axes: B rows, T targets, N
// trajectories of a target, C candidates, L slots, K own states of a trajectory, D columns of x, H of the MLP's first layer; widths
// are multiples of WIDE. The states of a row stand in S places: those of both histories, each from a multiple of ALIGNED on, then 2 K own.

#include <omp.h>

#include "products.h"

namespace seerec {
namespace {

constexpr long CANDIDATES = 128, BLOCK = 32, ALIGNED = 32;
constexpr int SIDES = 2;

enum Map { KEY, VALUE = 2, ITEM = 4, LATER };  // KEY and VALUE of both sides; then the MLP's later layers

struct Task {
  long b, t, n, c, d, h, k;
  bool shared, dot;  // one catalogue for all targets; whether the inner product counts
  long l[SIDES];
  const float *x[SIDES], *own[SIDES];  // B L D, B T N K D
  const uint8_t* visible[SIDES];  // B T L
  const float *items, *known;  // B T C D, or C D; B H
  std::vector<Linear> layers;  // as Map; the last one has one output
  std::vector<Dropout> draws;  // of every hidden layer
  float* out;  // B T N C

  long base(int side) const { return side ? padded(l[0], ALIGNED) : 0; }
  long own_base() const { return padded(l[0], ALIGNED) + padded(l[1], ALIGNED); }
  long places() const { return own_base() + padded(SIDES * k, ALIGNED); }
  long used() const { return own_base() + SIDES * k; }  // places up to the last state
  long hidden() const { return static_cast<long>(layers.size()) - LATER; }  // hidden layers; 0: no MLP
  const Linear& later(long i) const { return layers[LATER + i]; }  // from hidden layer i to the next
  long widest() const {
    long found = h;
    for (long i = 0; i < hidden(); i++) found = std::max(found, later(i).in);
    return found;
  }
  long deepest() const { return std::max({places(), d, widest(), CANDIDATES, l[0], l[1], n * k}); }
  long candidates() const { return std::min(c, CANDIDATES); }
  const float* items_of(long target) const { return shared ? items : items + target * c * d; }
};

// The states of one row, and those of one trajectory, as products want them.
template <class P>
struct States {
  using Right = typename P::Right;
  float *keys, *x, *v;  // S rows
  float *keys_room, *x_room, *v_room, *keys_back_room = nullptr, *x_back_room = nullptr, *v_back_room = nullptr;
  Right keys_turned, x_turned, v_right;  // e with keys and with x; p with v
  Right keys_back, x_back, v_back;  // gradients of those by keys, by x, and of v

  static long room(const Task& t, bool learns) {
    const long s = t.places();
    const long once = 2 * P::room(t.d, s) + P::room(s, t.h), back = 2 * P::room(s, t.d) + P::room(t.h, s);
    return s * (2 * t.d + t.h) + once + (learns ? back : 0) + 9 * WIDE;
  }
  States(const Task& t, bool learns, Room& room) {
    const long s = t.places();
    keys = room.take(s * t.d), x = room.take(s * t.d), v = room.take(s * t.h);
    std::fill(keys, keys + s * t.d, 0.0f), std::fill(x, x + s * t.d, 0.0f), std::fill(v, v + s * t.h, 0.0f);
    keys_room = room.take(P::room(t.d, s)), x_room = room.take(P::room(t.d, s)), v_room = room.take(P::room(s, t.h));
    if (!learns) return;
    keys_back_room = room.take(P::room(s, t.d)), x_back_room = room.take(P::room(s, t.d)), v_back_room = room.take(P::room(t.h, s));
  }
  void ready(const Task& t, long from, long count) {
    const long s = t.places();
    const auto down = [&](float* at, long columns) { return at + P::room(from, columns); };
    P::turned(keys + from * t.d, t.d, t.d, count, keys_room + from, s);
    if (t.dot) P::turned(x + from * t.d, t.d, t.d, count, x_room + from, s);
    if (t.h) P::right(v + from * t.h, t.h, count, t.h, down(v_room, t.h));
    if (keys_back_room) {
      P::right(keys + from * t.d, t.d, count, t.d, down(keys_back_room, t.d));
      if (t.dot) P::right(x + from * t.d, t.d, count, t.d, down(x_back_room, t.d));
      if (t.h) P::turned(v + from * t.h, t.h, t.h, count, v_back_room + from, s);
    }
  }
  void bind(const Task& t) {
    const long s = t.places();
    keys_turned = {keys_room, s}, x_turned = {x_room, s}, v_back = {v_back_room, s};
    v_right = P::whole(v, t.h, v_room), keys_back = P::whole(keys, t.d, keys_back_room), x_back = P::whole(x, t.d, x_back_room);
  }
  void made(const Task& t, const Maps<P>& maps, P& products, int side, const float* from, long count, long place) {
    copy(from, count * t.d, x + place * t.d);
    maps[KEY + side].apply(products, from, keys + place * t.d, count);
    if (t.h) maps[VALUE + side].apply(products, from, v + place * t.h, count);
  }
  void read_row(const Task& t, const Maps<P>& maps, P& products, long row) {
    for (int a = 0; a < SIDES; a++) {
      made(t, maps, products, a, t.x[a] + row * t.l[a] * t.d, t.l[a], t.base(a));
      ready(t, t.base(a), padded(t.l[a], ALIGNED));
    }
    bind(t);
  }
  void read_own(const Task& t, const Maps<P>& maps, P& products, long trajectory) {
    if (!t.k) return;
    for (int a = 0; a < SIDES; a++) made(t, maps, products, a, t.own[a] + trajectory * t.k * t.d, t.k, t.own_base() + a * t.k);
    ready(t, t.own_base(), t.places() - t.own_base());
  }
};

// What all trajectories of a target share, of some candidates; own columns belong to the trajectory at hand.
struct Given {
  float *logits, *dots, *first;  // each candidate's logits and inner products by place; W e + known
  static long room(const Task& t) { return t.candidates() * (2 * t.places() + t.h) + 3 * WIDE; }
  Given(const Task& t, Room& room) {
    const long c = t.candidates();
    logits = room.take(c * t.places()), dots = room.take(c * t.places()), first = room.take(c * t.h);
    std::fill(dots, dots + c * t.places(), 0.0f);
  }
};

// Of a block of candidates: p by place, what every hidden layer gives.
struct Layers {
  float* p;
  std::vector<float*> z;
  float* factors;
  static long room(const Task& t) {
    long floats = BLOCK * t.places() + padded(t.widest(), CHUNK) + (t.hidden() + 3) * WIDE;
    for (long i = 0; i < t.hidden(); i++) floats += BLOCK * t.later(i).in;
    return floats;
  }
  Layers(const Task& t, Room& room) : p(room.take(BLOCK * t.places())) {
    for (long i = 0; i < t.hidden(); i++) z.push_back(room.take(BLOCK * t.later(i).in));
    factors = room.take(padded(t.widest(), CHUNK));
  }
};

// Logits and inner products with the histories' states, and the first layer's item part.
template <class P>
void meet_items(const Task& t, const Maps<P>& maps, P& products, const float* items, long many, float* first) {
  if (t.h) products.times(items, t.d, maps[ITEM].forward, nullptr, first, t.h, many, t.h, t.d);
}

template <class P>
void meet_history(const Task& t, P& products, const States<P>& states, const float* items, long many, const Given& given) {
  const long s = t.places(), own = t.own_base();
  products.times(items, t.d, states.keys_turned, nullptr, given.logits, s, many, own, t.d);
  if (t.dot) products.times(items, t.d, states.x_turned, nullptr, given.dots, s, many, own, t.d);
}

template <class P>
void meet_own(const Task& t, P& products, const States<P>& states, const float* items, long many, const Given& given) {
  const long s = t.places(), own = t.own_base(), wide = padded(SIDES * t.k);
  if (!t.k) return;
  products.times(items, t.d, states.keys_turned.from(own), nullptr, given.logits + own, s, many, wide, t.d);
  if (t.dot) products.times(items, t.d, states.x_turned.from(own), nullptr, given.dots + own, s, many, wide, t.d);
}

// p of each side apart, by place, from logits: zero at places that the target does not see.
void softmax_of(const Task& t, const float* hidden, const float* logits, float* p) {
  const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const long own = t.own_base(), end = t.places();
  for (long j = own; j < end; j += WIDE) put(p + j, Floats{});
  for (int a = 0; a < SIDES; a++) {
    const long from = t.base(a), to = from + padded(t.l[a], ALIGNED);
    const int first = a * t.k, last = first + t.k;
    const auto is_own = [&](long j) {
      const Ints place = lanes + static_cast<int>(j - own);
      return (place >= first) & (place < last);
    };
    Floats most = all(UNSEEN), totals{};
    for (long j = from; j < to; j += WIDE) {
      const Floats v = at(logits + j) + at(hidden + j);
      most = v > most ? v : most;
    }
    for (long j = own; j < own + SIDES * t.k; j += WIDE) {
      const Floats v = is_own(j) ? at(logits + j) : all(UNSEEN);
      most = v > most ? v : most;
    }
    const float top = largest(most);
    for (long j = from; j < to; j += WIDE) {
      const Floats x = at(logits + j) + at(hidden + j), v = x > UNSEEN / 2 ? exponential(x - top) : Floats{};
      put(p + j, v);
      totals += v;
    }
    for (long j = own; j < own + SIDES * t.k; j += WIDE) {
      const Floats v = is_own(j) ? exponential(at(logits + j) - top) : Floats{};
      put(p + j, at(p + j) + v);
      totals += v;
    }
    const float total = sum(totals), by = total > 0 ? 1 / total : 0;
    for (long j = from; j < to; j += WIDE) put(p + j, at(p + j) * by);
    for (long j = own; j < own + SIDES * t.k; j += WIDE) put(p + j, is_own(j) ? at(p + j) * by : at(p + j));
  }
}

// Scores of candidates ``at_candidate`` to + many - 1 of a chunk; ``place`` is the first's among all B T N C.
template <class P>
void score_block(const Task& t, const Maps<P>& maps, P& products, const States<P>& states, const Given& given, const float* hidden,
                 const float* known, long first, long many, long place, const Layers& at_layers, float* scores) {
  const long s = t.places();
  for (long i = 0; i < many; i++) {
    const float *logits = given.logits + (first + i) * s, *dots = given.dots + (first + i) * s;
    float* p = at_layers.p + i * s;
    softmax_of(t, hidden, logits, p);
    Floats totals{};
    if (t.dot)
      for (long j = 0; j < s; j += WIDE) totals += at(p + j) * at(dots + j);
    scores[i] = sum(totals);
  }
  if (!t.h) return;
  float* z = at_layers.z[0];
  for (long i = 0; i < many; i++)
    for (long j = 0; j < t.h; j += WIDE) put(z + i * t.h + j, at(given.first + (first + i) * t.h + j) + at(known + j));
  products.times(at_layers.p, s, states.v_right, nullptr, z, t.h, many, t.h, t.used(), true);
  for (long layer = 0; layer < t.hidden(); layer++) {
    z = at_layers.z[layer];
    const Ready<P>& next = maps[LATER + layer];
    const Dropout& dropout = t.draws[layer];
    for (long i = 0; i < many; i++) {
      if (dropout.dropped) dropout.row(place + i, next.in, at_layers.factors);
      for (long j = 0; j < next.in; j += WIDE) {
        const Floats v = at(z + i * next.in + j) > 0 ? at(z + i * next.in + j) : Floats{};
        put(z + i * next.in + j, dropout.dropped ? v * at(at_layers.factors + j) : v);
      }
    }
    if (layer + 1 < t.hidden())
      next.apply(products, z, at_layers.z[layer + 1], many);
    else
      for (long i = 0; i < many; i++) scores[i] += inner(z + i * next.in, t.later(layer).matrix, next.in) + *next.bias;
  }
}

// What a target does not see, by place: a very small number to be added to its logits.
void hide(const Task& t, long target, float* hidden) {
  std::fill(hidden, hidden + t.own_base(), UNSEEN);
  for (int a = 0; a < SIDES; a++)
    for (long j = 0; j < t.l[a]; j++)
      if (t.visible[a][target * t.l[a] + j]) hidden[t.base(a) + j] = 0;
}

template <class P>
void run(const Task& t, int threads) {
  const Maps<P> maps(t.layers, false);
#pragma omp parallel num_threads(threads)
  {
    P products(t.deepest());
    Room room(States<P>::room(t, false) + Given::room(t) + Layers::room(t) + t.places() + WIDE);
    States<P> states(t, false, room);
    const Given given(t, room);
    const Layers layers(t, room);
    float* hidden = room.take(t.places());
#pragma omp for schedule(static)
    for (long row = 0; row < t.b; row++) {
      states.read_row(t, maps, products, row);
      for (long target = row * t.t; target < (row + 1) * t.t; target++) {
        hide(t, target, hidden);
        for (long chunk = 0; chunk < t.c; chunk += CANDIDATES) {
          const long many = std::min(CANDIDATES, t.c - chunk);
          const float* items = t.items_of(target) + chunk * t.d;
          meet_items(t, maps, products, items, many, given.first);
          meet_history(t, products, states, items, many, given);
          for (long trajectory = target * t.n; trajectory < (target + 1) * t.n; trajectory++) {
            states.read_own(t, maps, products, trajectory);
            meet_own(t, products, states, items, many, given);
            for (long first = 0; first < many; first += BLOCK) {
              const long place = trajectory * t.c + chunk + first;
              score_block(t, maps, products, states, given, hidden, t.known + row * t.h, first, std::min(BLOCK, many - first), place, layers,
                          t.out + place);
            }
          }
        }
      }
    }
  }
}

// One catalogue for all targets, of one trajectory each: its part of the first layer is made once for all of them.
template <class P>
void run_catalogue(const Task& t, int threads) {
  const Maps<P> maps(t.layers, false);
  const long targets = t.b * t.t;
  std::vector<Room> rooms;
  std::vector<States<P>> all_states;
  std::vector<float> all_hidden(targets * t.places());
  for (long target = 0; target < targets; target++) {
    rooms.emplace_back(States<P>::room(t, false));
    all_states.emplace_back(t, false, rooms.back());
  }
#pragma omp parallel num_threads(threads)
  {
    P products(t.deepest());
    Room room(Given::room(t) + Layers::room(t));
    const Given given(t, room);
    const Layers layers(t, room);
#pragma omp for schedule(static)
    for (long target = 0; target < targets; target++) {
      all_states[target].read_row(t, maps, products, target / t.t);
      all_states[target].read_own(t, maps, products, target);
      hide(t, target, all_hidden.data() + target * t.places());
    }
#pragma omp for schedule(static)
    for (long chunk = 0; chunk < t.c; chunk += CANDIDATES) {
      const long many = std::min(CANDIDATES, t.c - chunk);
      const float* items = t.items + chunk * t.d;
      meet_items(t, maps, products, items, many, given.first);
      for (long target = 0; target < targets; target++) {
        const States<P>& states = all_states[target];
        meet_history(t, products, states, items, many, given);
        meet_own(t, products, states, items, many, given);
        for (long first = 0; first < many; first += BLOCK)
          score_block(t, maps, products, states, given, all_hidden.data() + target * t.places(), t.known + target / t.t * t.h, first,
                      std::min(BLOCK, many - first), 0, layers, t.out + target * t.c + chunk + first);
      }
    }
  }
}

// The gradient --------------------------------------------------------------------------------------------------------------

struct Gradient {
  const float* out;  // B T N C
  float *x[SIDES], *own[SIDES], *items, *known;
  float* weights;  // of every layer: matrix (outputs x inputs) and bias
};

// Gradients of all layers, one after the other.
struct Learned {
  std::vector<float*> matrix, bias;
  static long room(const Task& t) {
    long floats = 0;
    for (const Linear& layer : t.layers) floats += layer.in * layer.out + layer.out;
    return floats;
  }
  Learned(const Task& t, float* next) {
    for (const Linear& layer : t.layers) {
      matrix.push_back(next), next += layer.in * layer.out;
      bias.push_back(next), next += layer.out;
    }
  }
};

// Of a row on the way back: gradients by candidate of a chunk, and by place.
struct Back {
  float *logits, *dots, *first;  // as Given
  float *keys, *x, *v;  // as States
  float *own_keys[SIDES], *own_x[SIDES], *own_v[SIDES];  // N K rows
  float* p;
  std::vector<float*> z;

  static long room(const Task& t) {
    const long s = t.places(), c = t.candidates();
    return c * (2 * s + t.h) + (s + SIDES * t.n * t.k) * (2 * t.d + t.h) + Layers::room(t) + 20 * WIDE;
  }
  Back(const Task& t, Room& room) {
    const long s = t.places(), c = t.candidates(), rows = t.n * t.k;
    logits = room.take(c * s), dots = room.take(c * s), first = room.take(c * t.h);
    keys = room.take(s * t.d), x = room.take(s * t.d), v = room.take(s * t.h);
    for (int a = 0; a < SIDES; a++) own_keys[a] = room.take(rows * t.d), own_x[a] = room.take(rows * t.d), own_v[a] = room.take(rows * t.h);
    p = room.take(BLOCK * s);
    for (long i = 0; i < t.hidden(); i++) z.push_back(room.take(BLOCK * t.later(i).in));
  }
};

// Back through ``score_block`` from the scores' gradients.
template <class P>
void block_back(const Task& t, const Maps<P>& maps, P& products, const States<P>& states, const Given& given, long first, long many,
                const Layers& at_layers, const float* of_scores, Back& back, Learned& learned) {
  const long s = t.places(), own = t.own_base(), end = padded(t.used());
  if (t.h) {
    const long last = t.hidden() - 1;
    for (long layer = last; layer >= 0; layer--) {
      const Ready<P>& map = maps[LATER + layer];
      float *z = at_layers.z[layer], *of_z = back.z[layer];
      if (layer == last)
        for (long i = 0; i < many; i++) {
          *learned.bias[LATER + layer] += of_scores[i];
          add_scaled(of_scores[i], z + i * map.in, map.in, learned.matrix[LATER + layer]);
          put_scaled(of_scores[i], t.later(layer).matrix, map.in, of_z + i * map.in);
        }
      else
        pull(products, map, z, back.z[layer + 1], many, learned.matrix[LATER + layer], learned.bias[LATER + layer], of_z, false);
      const float kept = 256.0f / (256 - t.draws[layer].dropped);
      for (long j = 0; j < many * map.in; j += WIDE) put(of_z + j, at(z + j) > 0 ? at(of_z + j) * kept : Floats{});
    }
    add(back.z[0], many * t.h, back.first + first * t.h);
    products.times(back.z[0], t.h, states.v_back, nullptr, back.p, s, many, end, t.h);
    products.add_turned(at_layers.p, s, back.z[0], t.h, back.v, t.h, t.used(), t.h, many);
  } else {
    std::fill(back.p, back.p + many * s, 0.0f);
  }
  for (long i = 0; i < many; i++) {
    const float *p = at_layers.p + i * s, *dots = given.dots + (first + i) * s;
    float *dp = back.p + i * s, *of_logits = back.logits + (first + i) * s, *of_dots = back.dots + (first + i) * s;
    if (t.dot)
      for (long j = 0; j < end; j += WIDE) {
        put(dp + j, at(dp + j) + at(dots + j) * of_scores[i]);
        put(of_dots + j, at(p + j) * of_scores[i] + (j < own ? at(of_dots + j) : Floats{}));
      }
    float delta[SIDES];
    const Ints lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const auto of_side = [&](int a, long j) {
      const Ints at_own = lanes + static_cast<int>(j - own);
      return (at_own >= static_cast<int>(a * t.k)) & (at_own < static_cast<int>((a + 1) * t.k));
    };
    for (int a = 0; a < SIDES; a++) {
      Floats totals{};
      for (long j = t.base(a); j < t.base(a) + padded(t.l[a], ALIGNED); j += WIDE) totals += at(p + j) * at(dp + j);
      for (long j = own; j < end; j += WIDE) totals += of_side(a, j) ? at(p + j) * at(dp + j) : Floats{};
      delta[a] = sum(totals);
    }
    for (long j = 0; j < end; j += WIDE) {
      const Floats less = j < t.base(1) ? all(delta[0]) : j < own ? all(delta[1]) : of_side(0, j) ? all(delta[0]) : all(delta[1]);
      put(of_logits + j, at(p + j) * (at(dp + j) - less) + (j < own ? at(of_logits + j) : Floats{}));
    }
  }
}

template <class P>
void run_back(const Task& t, const Gradient& gradient, int threads) {
  const Maps<P> maps(t.layers, true);
  const long learned_size = Learned::room(t);
  std::vector<std::vector<float>> of_threads(threads);
#pragma omp parallel num_threads(threads)
  {
    P products(t.deepest());
    Room room(States<P>::room(t, true) + Given::room(t) + Layers::room(t) + Back::room(t) + t.places() + WIDE);
    States<P> states(t, true, room);
    const Given given(t, room);
    const Layers layers(t, room);
    Back back(t, room);
    float* hidden = room.take(t.places());
    float scores[BLOCK];
    std::vector<float>& mine = of_threads[omp_get_thread_num()];
    mine.assign(learned_size + WIDE, 0.0f);
    Learned learned(t, mine.data());
    const long s = t.places(), own = t.own_base(), own_rows = SIDES * t.k, d = t.d, h = t.h;
#pragma omp for schedule(static)
    for (long row = 0; row < t.b; row++) {
      states.read_row(t, maps, products, row);
      std::fill(back.keys, back.keys + s * d, 0.0f), std::fill(back.x, back.x + s * d, 0.0f), std::fill(back.v, back.v + s * h, 0.0f);
      float* of_known = gradient.known + row * h;
      std::fill(of_known, of_known + h, 0.0f);
      for (long target = row * t.t; target < (row + 1) * t.t; target++) {
        hide(t, target, hidden);
        for (int a = 0; a < SIDES; a++)
          for (auto [of, columns] : {std::pair{back.own_keys[a], d}, {back.own_x[a], d}, {back.own_v[a], h}}) std::fill(of, of + t.n * t.k * columns, 0.0f);
        for (long chunk = 0; chunk < t.c; chunk += CANDIDATES) {
          const long many = std::min(CANDIDATES, t.c - chunk);
          const float* items = t.items_of(target) + chunk * d;
          float* of_items = gradient.items + (target * t.c + chunk) * d;
          meet_items(t, maps, products, items, many, given.first);
          meet_history(t, products, states, items, many, given);
          std::fill(back.logits, back.logits + many * s, 0.0f), std::fill(back.dots, back.dots + many * s, 0.0f);
          std::fill(back.first, back.first + many * h, 0.0f), std::fill(of_items, of_items + many * d, 0.0f);
          for (long n = 0; n < t.n; n++) {
            const long trajectory = target * t.n + n;
            states.read_own(t, maps, products, trajectory);
            meet_own(t, products, states, items, many, given);
            for (auto [of, columns] : {std::pair{back.keys, d}, {back.x, d}, {back.v, h}}) std::fill(of + own * columns, of + s * columns, 0.0f);
            for (long first = 0; first < many; first += BLOCK) {
              const long count = std::min(BLOCK, many - first), place = trajectory * t.c + chunk + first;
              score_block(t, maps, products, states, given, hidden, t.known + row * h, first, count, place, layers, scores);
              block_back(t, maps, products, states, given, first, count, layers, gradient.out + place, back, learned);
            }
            if (!t.k) continue;
            // What the trajectory's own states have done.
            products.add_turned(back.logits + own, s, items, d, back.keys + own * d, d, own_rows, d, many);
            products.times(back.logits + own, s, states.keys_back.below(own), nullptr, of_items, d, many, d, own_rows, true);
            if (t.dot) {
              products.add_turned(back.dots + own, s, items, d, back.x + own * d, d, own_rows, d, many);
              products.times(back.dots + own, s, states.x_back.below(own), nullptr, of_items, d, many, d, own_rows, true);
            }
            for (int a = 0; a < SIDES; a++) {
              const long from = own + a * t.k, to = n * t.k;
              add(back.keys + from * d, t.k * d, back.own_keys[a] + to * d);
              add(back.x + from * d, t.k * d, back.own_x[a] + to * d);
              add(back.v + from * h, t.k * h, back.own_v[a] + to * h);
            }
          }
          // What the histories' have, over all trajectories.
          products.add_turned(back.logits, s, items, d, back.keys, d, own, d, many);
          products.times(back.logits, s, states.keys_back, nullptr, of_items, d, many, d, own, true);
          if (t.dot) {
            products.add_turned(back.dots, s, items, d, back.x, d, own, d, many);
            products.times(back.dots, s, states.x_back, nullptr, of_items, d, many, d, own, true);
          }
          if (!h) continue;
          pull(products, maps[ITEM], items, back.first, many, learned.matrix[ITEM], nullptr, of_items, true);
          for (long i = 0; i < many; i++) add(back.first + i * h, h, of_known);
        }
        for (int a = 0; a < SIDES; a++) {
          const long rows = t.n * t.k, first = target * rows;
          float* of_own = gradient.own[a] + first * d;
          copy(back.own_x[a], rows * d, of_own);
          pull(products, maps[KEY + a], t.own[a] + first * d, back.own_keys[a], rows, learned.matrix[KEY + a], nullptr, of_own, true);
          if (h) pull(products, maps[VALUE + a], t.own[a] + first * d, back.own_v[a], rows, learned.matrix[VALUE + a], nullptr, of_own, true);
        }
      }
      for (int a = 0; a < SIDES; a++) {
        const long rows = t.l[a], from = t.base(a);
        const float* x = t.x[a] + row * rows * d;
        float* of_x = gradient.x[a] + row * rows * d;
        copy(back.x + from * d, rows * d, of_x);
        pull(products, maps[KEY + a], x, back.keys + from * d, rows, learned.matrix[KEY + a], nullptr, of_x, true);
        if (h) pull(products, maps[VALUE + a], x, back.v + from * h, rows, learned.matrix[VALUE + a], nullptr, of_x, true);
      }
    }
  }
  std::vector<float> total(learned_size, 0.0f);
  for (const std::vector<float>& mine : of_threads)
    for (long j = 0; j < (mine.empty() ? 0 : learned_size); j++) total[j] += mine[j];
  const Learned from(t, total.data()), to(t, gradient.weights);
  for (size_t i = 0; i < t.layers.size(); i++) {
    const Linear& layer = t.layers[i];
    turn_back(from.matrix[i], layer.in, layer.out, to.matrix[i]);
    std::copy(from.bias[i], from.bias[i] + layer.out, to.bias[i]);
  }
}

}  // namespace
}  // namespace seerec

// ``sizes``: B T N C D H K, whether one catalogue, whether the inner product counts, L of both sides, whether in halves, then inputs and
// outputs of every layer. ``data``: x and own of each side, items, known, out. ``layers``: matrix and bias of each: keys of both
// sides, values of both, items', later ones (the last with one output). ``draws``: three for each hidden layer. With ``taken`` (gradient of
// out, then of x and own of each side, items, known, layers) the gradient, else forward.
extern "C" __attribute__((visibility("default"))) void seerec_score(
    const long* sizes, long count, float* const* data, const uint8_t* const* visible, const float* const* layers, const uint32_t* draws,
    float* const* taken, int threads) {
  using namespace seerec;
  Task t{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7] != 0, sizes[8] != 0, {sizes[9], sizes[10]},
         {data[0], data[2]}, {data[1], data[3]}, {visible[0], visible[1]}, data[4], data[5], {}, {}, data[6]};
  const bool half = sizes[11];
  for (long i = 0; i < count; i++) t.layers.push_back({layers[2 * i], layers[2 * i + 1], sizes[12 + 2 * i], sizes[13 + 2 * i]});
  for (long i = 0; i < t.hidden(); i++) t.draws.push_back({draws[3 * i], draws[3 * i + 1], static_cast<int>(draws[3 * i + 2])});
  if (taken) {
    const Gradient gradient{taken[0], {taken[1], taken[3]}, {taken[2], taken[4]}, taken[5], taken[6], taken[7]};
    half ? run_back<Half>(t, gradient, threads) : run_back<Full>(t, gradient, threads);
  } else if (t.shared) {
    half ? run_catalogue<Half>(t, threads) : run_catalogue<Full>(t, threads);
  } else {
    half ? run<Half>(t, threads) : run<Full>(t, threads);
  }
}
