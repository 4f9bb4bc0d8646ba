// Decode attention with scalar products in float32: for small groups of query heads, and for 16-bit tokens.
// Four lanes share a token's keys, eight lanes the channels of its values.

namespace kv {

// Queries of HEADS heads, as a lane meets keys of format F with them.
template <typename F, int HEADS>
struct ScalarQuery {
  typedef Slices<F, 4> Cut;

  float query[HEADS][F::dim / 4];  // of this lane's channels, times the scale and log2(e)
  float query_sum[HEADS][F::groups];

  // The heads from `first` on, of which `present` are there; the keys meet their channels from `from` on.
  template <typename Q>
  KV_FUNC void begin(KV_THREAD const Q& q, int first, int present, int from, float scale, int quad) {
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      KV_UNROLL for (int g = 0; g < F::groups; ++g) query_sum[h][g] = 0.0f;
      KV_UNROLL for (int u = 0; u < Cut::units; ++u) {
        KV_UNROLL for (int i = 0; i < Cut::run; ++i) {
          const int channel = from + Cut::channel(u * Cut::unit + quad * Cut::run + i);
          const float x = h < present ? q.at(first + h, channel) * scale : 0.0f;
          query[h][u * Cut::run + i] = x;
          query_sum[h][u / Cut::units_per_group] += x;
        }
      }
    }
  }
  // Adds this lane's share of the scores with the key of token `near` of the rows.
  KV_FUNC void score(KV_THREAD const Rows<F>& rows, KV_THREAD const Rows<F>& scale_rows, int near, int quad,
                     KV_SHARED(uint) book, KV_THREAD float (&s)[HEADS]) const {
    Scales<F> scales, biases;
    if (F::meta >= META_SCALE) load_scales<F>(scale_rows, near, 0, scales);
    if (F::meta == META_BIAS) load_scales<F>(scale_rows, near, 1, biases);
    KV_UNROLL for (int g = 0; g < F::groups; ++g) {
      float dot[HEADS];
      KV_UNROLL for (int h = 0; h < HEADS; ++h) dot[h] = 0.0f;
      KV_UNROLL for (int uu = 0; uu < Cut::units_per_group; ++uu) {
        const int u = g * Cut::units_per_group + uu;
        LaneFloats<F, 4> key;
        key.load(rows, near, u, quad, book);
        KV_UNROLL for (int w = 0; w < Cut::words; ++w) {
          KV_UNROLL for (int i = 0; i < Cut::pairs; ++i) {
            float low, high;
            key.pair(w, i, book, low, high);
            const int position = u * Cut::run + w * Cut::codes + i;
            KV_UNROLL for (int h = 0; h < HEADS; ++h) {
              dot[h] = fast_fma(low, query[h][position], dot[h]);
              dot[h] = fast_fma(high, query[h][position + Cut::pairs], dot[h]);
            }
          }
        }
      }
      const float scale = F::meta >= META_SCALE ? scales.at(g) : 1.0f;
      const float bias = F::meta == META_BIAS ? fast_fma(scale, float(F::center), biases.at(g)) : 0.0f;
      KV_UNROLL for (int h = 0; h < HEADS; ++h)
        s[h] = fast_fma(scale, dot[h], fast_fma(bias, query_sum[h][g], s[h]));
    }
  }
};
template <int HEADS>
struct ScalarQuery<Absent, HEADS> {
  template <typename Q>
  KV_FUNC void begin(KV_THREAD const Q&, int, int, int, float, int) {}
};

// HEADS is the number of query heads that one simdgroup works on, Scoring one of scoring.h.
template <typename K, typename V, typename R, int HEADS, typename Scoring>
struct ScalarBody {
  typedef Slices<V, 8> ValueCut;
  KV_CONST int output_tiles = V::dim / 16;

  ScalarQuery<K, HEADS> queries;
  ScalarQuery<R, HEADS> second;
  Scoring scoring;
  int first_head;  // of this simdgroup, among those of the threadgroup
  int lane, row, quad;
  float out[HEADS][output_tiles][2];
  float peak[HEADS];
  float weight[HEADS];
  float rest[HEADS];  // the share of the learned sink
  float sum[HEADS];
  float shift[HEADS][V::groups];  // sum of probability times bias

  // Works on the query heads from `first` on, of which `present` are there.
  template <typename Q>
  KV_FUNC void begin(KV_THREAD const Q& q, int first, int present, float scale, KV_THREAD const Scoring& scores,
                     int lane_index) {
    scoring = scores;
    first_head = first;
    lane = lane_index;
    row = lane_row(lane);
    quad = lane_quad(lane);
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      peak[h] = lowest_peak();
      sum[h] = 0.0f;
      KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[h][g] = 0.0f;
      KV_UNROLL for (int i = 0; i < output_tiles; ++i) out[h][i][0] = out[h][i][1] = 0.0f;
    }
    queries.begin(q, first, present, 0, scale, quad);
    second.begin(q, first, present, K::dim, scale, quad);
  }

  KV_FUNC void begin_tile(KV_THREAD const Stored<K, V, R>&, i64, int) {}

  // Sixteen tokens from `token` on, of which `left` are there (all of them if FULL).
  template <bool FULL>
  KV_FUNC void step(KV_THREAD const Stored<K, V, R>& stored, i64 token, int left, i64, int) {
    const Tokens at = tokens_of<FULL>(left, row, quad);
    const Cursor<K, V> cursor = cursor_of<K, V>(stored, token, row, quad);
    float p[2][HEADS];
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      KV_UNROLL for (int h = 0; h < HEADS; ++h) p[r][h] = 0.0f;
      queries.score(cursor.keys, cursor.key_scales, at.near[r], quad, stored.key_book, p[r]);
      score_rest(stored.rest, token, at.near[r], p[r]);
      KV_UNROLL for (int h = 0; h < HEADS; ++h) {
        KV_UNROLL for (int i = 0; i < 2; ++i) p[r][h] += simd_swap(p[r][h], quad_step(i));
      }
      KV_UNROLL for (int h = 0; h < HEADS; ++h)
        p[r][h] = scoring.score(p[r][h], first_head + h, token + row + at.near[r]);
      if (!FULL && row + 8 * r >= left) {
        KV_UNROLL for (int h = 0; h < HEADS; ++h) p[r][h] = hidden_score();
      }
    }
    keep_in_range(p);
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      KV_UNROLL for (int r = 0; r < 2; ++r) p[r][h] = fast_exp2(p[r][h] - peak[h]);
      sum[h] += p[0][h] + p[1][h];
    }
    accumulate(stored, cursor, at, p);
  }

  KV_FUNC void score_rest(KV_THREAD const Rest<Absent>&, i64, int, KV_THREAD float (&)[HEADS]) const {}
  template <typename F>
  KV_FUNC void score_rest(KV_THREAD const Rest<F>& rest, i64 token, int near, KV_THREAD float (&s)[HEADS]) const {
    second.score(lane_rows<F, 4>(rest.rows, token, row, quad), advanced<F>(rest.rows, token + row), near, quad, rest.book, s);
  }

  // Raises the running maxima when this tile passes them by much, which is rare.
  KV_FUNC void keep_in_range(KV_THREAD const float (&s)[2][HEADS]) {
    bool passed = false;
    KV_UNROLL for (int h = 0; h < HEADS; ++h) passed = passed || larger(s[0][h], s[1][h]) > peak[h] + slack();
    if (!simd_some(passed)) return;
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      float top = larger(s[0][h], s[1][h]);
      KV_UNROLL for (int i = 0; i < 3; ++i) top = larger(top, simd_swap(top, row_step(i)));
      top = larger(top, peak[h]);
      const float decay = fast_exp2(peak[h] - top);
      peak[h] = top;
      sum[h] *= decay;
      KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[h][g] *= decay;
      KV_UNROLL for (int i = 0; i < output_tiles; ++i) {
        out[h][i][0] *= decay;
        out[h][i][1] *= decay;
      }
    }
  }

  KV_FUNC void accumulate(KV_THREAD const Stored<K, V, R>& stored, KV_THREAD const Cursor<K, V>& cursor,
                     KV_THREAD const Tokens& at,
                          KV_THREAD const float (&p)[2][HEADS]) {
    Scales<V> scales[2], biases[2];
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      if (V::meta >= META_SCALE) load_scales<V>(cursor.value_scales, at.near[r], 0, scales[r]);
      if (V::meta == META_BIAS) load_scales<V>(cursor.value_scales, at.near[r], 1, biases[r]);
    }
    KV_UNROLL for (int g = 0; g < V::groups; ++g) {
      float weights[HEADS][4];  // of this lane's four tokens
      KV_UNROLL for (int h = 0; h < HEADS; ++h) {
        KV_UNROLL for (int r = 0; r < 2; ++r) {
          const float scale = V::meta >= META_SCALE ? scales[r].at(g) : 1.0f;
          if (V::meta == META_BIAS)
            shift[h][g] = fast_fma(p[r][h], fast_fma(scale, float(V::center), biases[r].at(g)), shift[h][g]);
          KV_UNROLL for (int j = 0; j < 2; ++j)
            weights[h][2 * r + j] = simd_read(p[r][h] * scale, lane_at(2 * quad + j, quad));
        }
      }
      KV_UNROLL for (int uu = 0; uu < ValueCut::units_per_group; ++uu) {
        const int u = g * ValueCut::units_per_group + uu;
        LaneFloats<V, 8> values[4];
        KV_UNROLL for (int i = 0; i < 4; ++i) values[i].load(cursor.values, at.far[i], u, row, stored.value_book);
        KV_UNROLL for (int w = 0; w < ValueCut::words; ++w) {
          KV_UNROLL for (int i = 0; i < ValueCut::pairs; ++i) {
            const int tile = (u * ValueCut::words + w) * ValueCut::pairs + i;
            KV_UNROLL for (int k = 0; k < 4; ++k) {
              float low, high;
              values[k].pair(w, i, stored.value_book, low, high);
              KV_UNROLL for (int h = 0; h < HEADS; ++h) {
                out[h][tile][0] = fast_fma(weights[h][k], low, out[h][tile][0]);
                out[h][tile][1] = fast_fma(weights[h][k], high, out[h][tile][1]);
              }
            }
          }
        }
      }
    }
  }

  // Adds up what the lanes of a token, and of a channel, hold.
  KV_FUNC void finish() {
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      KV_UNROLL for (int i = 0; i < 3; ++i) {
        sum[h] += simd_swap(sum[h], row_step(i));
        if (V::meta == META_BIAS) {
          KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[h][g] += simd_swap(shift[h][g], row_step(i));
        }
      }
      KV_UNROLL for (int i = 0; i < 2; ++i) {
        KV_UNROLL for (int t = 0; t < output_tiles; ++t) {
          out[h][t][0] += simd_swap(out[h][t][0], quad_step(i));
          out[h][t][1] += simd_swap(out[h][t][1], quad_step(i));
        }
      }
    }
  }
  KV_FUNC void leave_peaks(KV_SHARED(float) peaks) const {
    if (lane != 0) return;
    KV_UNROLL for (int h = 0; h < HEADS; ++h) peaks[h] = larger(peak[h], scoring.sink(first_head + h));
  }
  KV_FUNC void leave_sums(KV_SHARED(float) sums) const {
    if (lane != 0) return;
    KV_UNROLL for (int h = 0; h < HEADS; ++h) sums[h] = fast_fma(sum[h], weight[h], rest[h]);
  }
  // Weights of this simdgroup among STRIPES with the same heads, whose maxima are [stripe][COUNT].
  template <int COUNT, int STRIPES>
  KV_FUNC void weigh(KV_SHARED(float) peaks) {
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      float top = lowest_peak();
      KV_UNROLL for (int s = 0; s < STRIPES; ++s) top = larger(top, peaks[s * COUNT + h]);
      weight[h] = fast_exp2(peak[h] - top);
      rest[h] = scoring.share(first_head + h, top);
    }
  }
  // Output tiles [first, first + COUNT), weighted, as [head][tile][16 rows].
  template <int COUNT>
  KV_FUNC void store(KV_SHARED(float) memory, int first) const {
    if (quad != 0) return;
    KV_UNROLL for (int h = 0; h < HEADS; ++h) {
      KV_UNROLL for (int i = 0; i < COUNT; ++i) {
        if (first + i < output_tiles) {
          const float bias = shift[h][Output<V>::group(first + i)];
          KV_UNROLL for (int r = 0; r < 2; ++r)
            memory[(h * COUNT + i) * 16 + row + 8 * r] = (out[h][first + i][r] + bias) * weight[h];
        }
      }
    }
  }
};

}  // namespace kv
