// Queries as the matrix body wants them: float16 tiles scaled by a power of two per head, and their sums per group.
// A float32 number is the sum of two float16 terms, to 22 bits.
// Loops stay loops here: code that runs once is paid for by fetching it, not by running it.

namespace kv {

// Where the code at `position` of a key meets the queries: the step, and the row of its tile.
template <typename K>
struct KeyOrder {
  typedef Slices<K, 4> Cut;
  KV_CONST int word_steps = most(1, Cut::codes / 4);  // four codes make two pairs of columns

  static KV_FUNC int step(int position) {
    const int word = position / Cut::unit * Cut::words + position % Cut::run / Cut::codes;
    return word * word_steps + position % Cut::pairs / 2;
  }
  static KV_FUNC int row(int position) {
    const int pair = position % Cut::pairs, second = position % Cut::codes / Cut::pairs;
    return 2 * (position % Cut::unit / Cut::run) + 8 * (pair & 1) + second;
  }
};

// What rounding x to float16 leaves.
KV_FUNC float half_rest(float x) { return x - to_float(Convert<half_t>::from(x)); }

// TILES times 8 query heads of one KV head, that one simdgroup works on; heads that are not there are zero. The tiles of all
// CHUNKS sets of heads lie in threadgroup memory; a few of one term are held in registers as well if HOLD, others leave those to
// keys that come in ahead.
template <typename K, int TILES, int TERMS, int CHUNKS, int SIMDS, bool HOLD>
struct MatrixQuery {
  KV_CONST int steps = K::dim / 16;
  KV_CONST int tiles = TILES;
  KV_CONST int terms = TERMS;
  KV_CONST bool held = HOLD && TERMS == 1 && TILES * steps <= 16;
  KV_CONST int heads = CHUNKS * TILES * 8;
  KV_CONST int term_halves = heads * K::dim;
  KV_CONST int halves = TERMS * term_halves;
  KV_CONST int floats = heads * (1 + (held ? 0 : K::groups));

  TileB tile[held ? TILES * steps : 1];
  float factor[TILES][2];                      // of heads 2 quad and 2 quad + 1: undoes the power of two, times the scale
  float sums[held ? K::groups : 1][TILES][2];  // per group, of the rounded queries of these heads
  KV_SHARED(half_t) tile_memory;
  KV_SHARED(float) sum_memory;

  // The simdgroup works on the heads of `chunk`, as `share` of `shares`.
  template <typename Q>
  KV_FUNC void prepare(KV_THREAD const Q& q, float scale, KV_THREAD const Place& place, int chunk, int share, int shares,
                       KV_SHARED(half_t) half_memory, KV_SHARED(float) float_memory) {
    KV_UNROLL_1 for (int h = place.simd; h < heads; h += SIMDS) {
      float top = 0.0f;
      KV_UNROLL_4 for (int c = place.lane; c < K::dim; c += 32)
        top = larger(top, h < place.heads ? magnitude(q.at(h, c)) : 0.0f);
      KV_UNROLL for (int i = 0; i < 5; ++i) top = larger(top, simd_swap(top, 1 << i));
      const uint exponent = float_bits(top) >> 23;
      const float raise = exponent == 0u ? 1.0f : bits_float((254u - exponent) << 23);
      if (place.lane == 0) float_memory[h] = scale * Slices<K, 4>::gain() * (exponent == 0u ? 1.0f : bits_float(exponent << 23));
      KV_UNROLL_4 for (int position = place.lane; position < K::dim; position += 32) {
        float x = h < place.heads ? q.at(h, Slices<K, 4>::channel(position)) * raise : 0.0f;
        const int k = KeyOrder<K>::row(position), column = h & 7;
        const int cell = ((h >> 3) * steps + KeyOrder<K>::step(position)) * 32 + tile_b_lane(k, column);
        const int at = 4 * cell + 2 * (k >> 3) + tile_b_half(k, column);
        KV_UNROLL for (int term = 0; term < TERMS; ++term) {
          half_memory[term * term_halves + at] = Convert<half_t>::from(x);
          x = half_rest(x);
        }
      }
    }
    group_sync();
    tile_memory = half_memory + chunk * TILES * steps * 128;
    sum_memory = float_memory + heads + chunk * TILES * 8 * K::groups;
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j)
        factor[t][j] = float_memory[(chunk * TILES + t) * 8 + 2 * lane_quad(place.lane) + j];
      if (held) {
        KV_UNROLL for (int s = 0; s < steps; ++s) tile[t * steps + s] = load(s, t, 0, place.lane);
      }
    }
    if (K::meta == META_BIAS) add_up(place.lane, share, shares);
  }

  // Sums of the queries per group, as products with ones.
  KV_FUNC void add_up(int lane, int share, int shares) {
    TileA ones;
    KV_UNROLL for (int i = 0; i < 4; ++i) ones.v[i] = pair_from_bits(0x3c003c00u);
    if (held) {
      KV_UNROLL for (int t = 0; t < TILES; ++t) {
        KV_UNROLL for (int g = 0; g < K::groups; ++g) {
          TileC sum = tile_c_zero();
          KV_UNROLL for (int s = 0; s < steps / K::groups; ++s)
            multiply_add(sum, ones, tile[t * steps + g * (steps / K::groups) + s]);
          sums[g][t][0] = sum.v[0];
          sums[g][t][1] = sum.v[1];
        }
      }
      return;
    }
    KV_UNROLL_1 for (int i = share; i < TILES * K::groups; i += shares) {
      TileC sum = tile_c_zero();
      KV_UNROLL_4 for (int s = 0; s < steps / K::groups; ++s) {
        KV_UNROLL for (int term = 0; term < TERMS; ++term)
          multiply_add(sum, ones, load(i / TILES * (steps / K::groups) + s, i % TILES, term, lane));
      }
      if (lane_row(lane) == 0) {
        sum_memory[8 * i + 2 * lane_quad(lane)] = sum.v[0];
        sum_memory[8 * i + 2 * lane_quad(lane) + 1] = sum.v[1];
      }
    }
    group_sync();
  }

  KV_FUNC TileB load(int step, int t, int term, int lane) const {
    TileB b;
    load_tile_b(tile_memory + term * term_halves + ((t * steps + step) * 32 + lane) * 4, b);
    return b;
  }
  KV_FUNC TileB at(int step, int t, int term, int lane) const {
    return held ? tile[t * steps + step] : load(step, t, term, lane);
  }
  KV_FUNC float sum_at(int group, int t, int j, int quad) const {  // of the rounded queries of a head
    return held ? sums[group][t][j] : float(sum_memory[8 * (group * TILES + t) + 2 * quad + j]);
  }
};

// Of keys that have no second part.
struct NoQuery {
  KV_CONST int floats = 0, halves = 0;

  template <typename Q>
  KV_FUNC void prepare(KV_THREAD const Q&, float, KV_THREAD const Place&, int, int, int, KV_SHARED(half_t),
                       KV_SHARED(float)) {}
};
template <typename R, int TILES, int TERMS, int CHUNKS, int SIMDS>
struct RestQuery {
  typedef MatrixQuery<R, TILES, TERMS, CHUNKS, SIMDS, false> Query;
};
template <int TILES, int TERMS, int CHUNKS, int SIMDS>
struct RestQuery<Absent, TILES, TERMS, CHUNKS, SIMDS> {
  typedef NoQuery Query;
};

}  // namespace kv
