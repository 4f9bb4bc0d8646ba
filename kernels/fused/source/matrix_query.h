// Queries as the matrix body wants them: float16 tiles scaled by a power of two per head, and their sums per group.

namespace kv {

// Position of key tile row `k` (0 to 15) of step `step` among the channels of a head.
template <typename K>
KV_FUNC int key_channel(int step, int k) {
  typedef Slices<K, 4> Cut;
  const int steps = most(1, Cut::codes / 4);  // of a word: four codes make two column pairs
  const int unit = step / (steps * Cut::words), word = step / steps % Cut::words;
  const int pair = 2 * (step % steps) + (k >> 3);
  return K::channel(unit * Cut::unit + ((k & 7) >> 1) * Cut::run + word * Cut::codes + pair + (k & 1) * Cut::pairs);
}

// HEADS query heads of one KV head (a multiple of 8; those beyond GQA are zero).
template <typename K, int GQA, int HEADS, int SIMDS>
struct MatrixQuery {
  KV_CONST int heads = HEADS;
  KV_CONST int steps = K::dim / 16;
  KV_CONST int tiles = HEADS / 8;
  KV_CONST int floats = 2 * HEADS + K::groups * HEADS;
  KV_CONST bool held = tiles * steps <= 16;  // in registers
  KV_CONST int words = held ? 4 : tiles * steps * 64;

  KV_SHARED(float) factor;  // undoes the power of two; times the scale and log2(e)
  KV_SHARED(float) up;      // the power of two
  KV_SHARED(float) sums;    // [group][head], of the rounded queries
  KV_SHARED(uint) tile_words;

  // q points at the first head of the group, [GQA, D].
  template <typename Q>
  KV_FUNC void prepare(KV_DEVICE(const Q) q, float scale, KV_THREAD const Place& place) {
    for (int h = place.simd; h < HEADS; h += SIMDS) {
      float values[(K::dim + 31) / 32];
      float top = 0.0f;
      KV_UNROLL for (int i = 0; i < (K::dim + 31) / 32; ++i) {
        const int channel = 32 * i + place.lane;
        values[i] = h < GQA && channel < K::dim ? to_float(q[h * K::dim + channel]) : 0.0f;
        top = larger(top, magnitude(values[i]));
      }
      KV_UNROLL for (int i = 0; i < 5; ++i) top = larger(top, simd_swap(top, 1 << i));
      const uint exponent = float_bits(top) >> 23;
      const float raise = exponent == 0 ? 1.0f : bits_float((254u - exponent) << 23);
      float sum = 0.0f;
      KV_UNROLL for (int i = 0; i < (K::dim + 31) / 32; ++i) {
        sum += pair_low(make_pair(values[i] * raise, 0.0f));
        const int group = 32 * i / K::group;
        if (32 * (i + 1) / K::group != group || 32 * (i + 1) >= K::dim) {
          KV_UNROLL for (int j = 0; j < 5; ++j) sum += simd_swap(sum, 1 << j);
          if (place.lane == 0) sums[group * HEADS + h] = sum;
          sum = 0.0f;
        }
      }
      if (place.lane == 0) {
        up[h] = raise;
        factor[h] = scale * (exponent == 0 ? 1.0f : bits_float(exponent << 23));
      }
    }
    group_sync();
    if (!held) {
      for (int step = place.simd; step < steps; step += SIMDS) {
        for (int t = 0; t < tiles; ++t) {
          const TileB b = gather(q, step, t, place.lane);
          tile_words[((t * steps + step) * 2) * 32 + place.lane] = pair_bits(b.v[0]);
          tile_words[((t * steps + step) * 2 + 1) * 32 + place.lane] = pair_bits(b.v[1]);
        }
      }
      group_sync();
    }
  }

  // The tile of queries that meets the keys of one step, from device memory or from threadgroup memory.
  template <typename Q>
  KV_FUNC TileB gather(KV_DEVICE(const Q) q, int step, int tile, int lane) const {
    TileB b;
    KV_UNROLL for (int upper = 0; upper < 2; ++upper) {
      float x[2];
      KV_UNROLL for (int j = 0; j < 2; ++j) {
        const int h = 8 * tile + tile_b_column(lane, j);
        const int channel = key_channel<K>(step, tile_b_row(lane, upper, j));
        x[j] = h < GQA ? to_float(q[h * K::dim + channel]) * up[h] : 0.0f;
      }
      b.v[upper] = make_pair(x[0], x[1]);
    }
    return b;
  }
  KV_FUNC TileB load(int step, int tile, int lane) const {
    TileB b;
    b.v[0] = pair_from_bits(tile_words[((tile * steps + step) * 2) * 32 + lane]);
    b.v[1] = pair_from_bits(tile_words[((tile * steps + step) * 2 + 1) * 32 + lane]);
    return b;
  }
};

}  // namespace kv
