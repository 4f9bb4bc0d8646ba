// Decode attention on matrix tiles: 16 tokens by channels times channels by 8 query heads, and back.
// For groups of query heads so large that scalar products would be the bottleneck.

namespace kv {

// Query is a MatrixQuery of K, Second one of the rest R of the keys, Scoring one of scoring.h.
template <typename K, typename V, typename R, typename Query, typename Second, typename Scoring>
struct MatrixBody {
  typedef Slices<K, 4> KeyCut;
  typedef Slices<V, 8> ValueCut;
  KV_CONST int TILES = Query::tiles;
  KV_CONST int TERMS = Query::terms;
  KV_CONST int output_tiles = V::dim / 16;
  // Small slices are loaded before they are needed; large ones would not leave registers for the output.
  KV_CONST bool early_keys = KeyCut::units * KeyCut::words <= 16;
  KV_CONST bool early_biases = V::groups <= 8;
  KV_CONST bool ahead = !Query::held;  // whether keys are loaded a tile ahead

  Query queries;
  Second second;
  Scoring scoring;
  int first_head;  // of this simdgroup, among those of the threadgroup
  int lane, row, quad;
  TileC out[TILES][output_tiles];
  float peak[TILES][2];  // of heads 2 quad and 2 quad + 1 of each tile, like the next four
  float weight[TILES][2];
  float rest[TILES][2];  // the share of the learned sink
  float sum[TILES][2];
  float shift[TILES][2][V::groups];  // sum of probability times bias
  float bound;                       // a power of two that no value scale so far exceeds
  float lift;                        // probability times value scale times this fits float16
  LaneKeys<K, early_keys> keys;      // of the tile to come

  // Works on the query heads from `first` on.
  KV_FUNC void begin(int first, KV_THREAD const Scoring& scores, int lane_index) {
    scoring = scores;
    first_head = first;
    lane = lane_index;
    row = lane_row(lane);
    quad = lane_quad(lane);
    bound = bits_float(27u << 23);  // 2^-100, and 64 over it
    lift = bits_float(233u << 23);
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j) {
        peak[t][j] = lowest_peak();
        sum[t][j] = 0.0f;
        KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[t][j][g] = 0.0f;
      }
      KV_UNROLL for (int i = 0; i < output_tiles; ++i) {
        KV_UNROLL for (int e = 0; e < 4; ++e) out[t][i].v[e] = 0.0f;
      }
    }
  }

  // Loads keys of sixteen tokens from `token` on, of which `left` are there, if that is done ahead.
  KV_FUNC void begin_tile(KV_THREAD const Stored<K, V, R>& stored, i64 token, int left) {
    if (!ahead) return;
    const Cursor<K, V> cursor = cursor_of<K, V>(stored, token, row, quad);
    const Tokens at = tokens_of<false>(left, row, quad);
    keys.begin(cursor.keys, at, quad);
    keys.begin_scales(cursor.key_scales, at);
  }

  // Sixteen tokens from `token` on, of which `left` are there (all of them if FULL). Keys of the tile at `next`, if that is
  // there, are loaded while values of this one are added.
  template <bool FULL>
  KV_FUNC void step(KV_THREAD const Stored<K, V, R>& stored, i64 token, int left, i64 next, int next_left) {
    const Tokens at = tokens_of<FULL>(left, row, quad);
    const Cursor<K, V> cursor = cursor_of<K, V>(stored, token, row, quad);
    LaneValues<V> values;
    if (!ahead) keys.begin(cursor.keys, at, quad);
    Scales<V> scales[2], biases[2];
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      if (V::meta >= META_SCALE) load_scales<V>(cursor.value_scales, at.near[r], 0, scales[r]);
      if (V::meta == META_BIAS && early_biases) load_scales<V>(cursor.value_scales, at.near[r], 1, biases[r]);
    }
    TileC p[TILES];
    values.begin(cursor.values, at, row);
    if (!ahead) keys.begin_scales(cursor.key_scales, at);
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int e = 0; e < 4; ++e) p[t].v[e] = 0.0f;
    }
    score<K>(cursor.keys, keys, stored.key_book, queries, at, p);
    score_rest(stored.rest, token, at, p);
    if (next_left > 0) begin_tile(stored, next, next_left);
    float widest = 0.0f;
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      KV_UNROLL for (int t = 0; t < TILES; ++t) {
        KV_UNROLL for (int j = 0; j < 2; ++j)
          p[t].v[2 * r + j] = scoring.score(p[t].v[2 * r + j], head_of(t, j), token + row + at.near[r]);
        if (!FULL && row + 8 * r >= left) p[t].v[2 * r] = p[t].v[2 * r + 1] = hidden_score();
      }
      KV_UNROLL for (int g = 0; g < V::groups; ++g)
        widest = larger(widest, V::meta >= META_SCALE ? magnitude(scales[r].at(g)) : 1.0f);
    }
    keep_in_range(p, widest);
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      if (V::meta == META_BIAS && !early_biases) load_scales<V>(cursor.value_scales, at.near[r], 1, biases[r]);
    }
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int e = 0; e < 4; ++e) p[t].v[e] = fast_exp2(p[t].v[e] - peak[t][e & 1]);
      KV_UNROLL for (int j = 0; j < 2; ++j) sum[t][j] += p[t].v[j] + p[t].v[2 + j];
    }
    accumulate(stored, cursor, at, values, p, scales, biases);
  }

  // Adds the scores of the tile with keys, or a part of them, of format F: groups of channels one by one, each with its
  // scale and bias after the product.
  template <typename F, typename Lane, typename Queries>
  KV_FUNC void score(KV_THREAD const Rows<F>& rows, KV_THREAD Lane& lane_keys, KV_SHARED(uint) book,
                     KV_THREAD const Queries& q, KV_THREAD const Tokens& at, KV_THREAD TileC (&sum)[TILES]) {
    typedef Slices<F, 4> Cut;
    const int steps_per_word = most(1, Cut::codes / 4);
    TileC s[TILES];
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int e = 0; e < 4; ++e) s[t].v[e] = 0.0f;
    }
    KV_UNROLL for (int g = 0; g < F::groups; ++g) {
      TileC dot[TILES];
      KV_UNROLL for (int t = 0; t < TILES; ++t) {
        KV_UNROLL for (int e = 0; e < 4; ++e) dot[t].v[e] = 0.0f;
      }
      KV_UNROLL for (int uu = 0; uu < Cut::units_per_group; ++uu) {
        const int u = g * Cut::units_per_group + uu;
        lane_keys.fetch(rows, at, u, quad, book);
        KV_UNROLL for (int w = 0; w < Cut::words; ++w) {
          KV_UNROLL for (int i = 0; i < steps_per_word; ++i) {
            const int step = (u * Cut::words + w) * steps_per_word + i;
            TileA a;
            KV_UNROLL for (int e = 0; e < 4; ++e) a.v[e] = lane_keys.pair(e & 1, u, w, 2 * i + (e >> 1), book);
            KV_UNROLL for (int t = 0; t < TILES; ++t) {
              KV_UNROLL for (int term = 0; term < TERMS; ++term)
                multiply_add(dot[t], a, q.at(step, t, term, lane));
            }
          }
        }
      }
      KV_UNROLL for (int r = 0; r < 2; ++r) {
        const float scale = lane_keys.scale(r, g), bias = lane_keys.bias(r, g);
        KV_UNROLL for (int t = 0; t < TILES; ++t) {
          KV_UNROLL for (int j = 0; j < 2; ++j) {
            float x = fast_fma(scale, dot[t].v[2 * r + j], s[t].v[2 * r + j]);
            if (F::meta == META_BIAS) x = fast_fma(bias, q.sum_at(g, t, j, quad), x);
            s[t].v[2 * r + j] = x;
          }
        }
      }
    }
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int e = 0; e < 4; ++e) sum[t].v[e] = fast_fma(s[t].v[e], q.factor[t][e & 1], sum[t].v[e]);
    }
  }
  KV_FUNC void score_rest(KV_THREAD const Rest<Absent>&, i64, KV_THREAD const Tokens&, KV_THREAD TileC (&)[TILES]) {}
  template <typename F>
  KV_FUNC void score_rest(KV_THREAD const Rest<F>& rest, i64 token, KV_THREAD const Tokens& at,
                          KV_THREAD TileC (&s)[TILES]) {
    const Rows<F> rows = lane_rows<F, 4>(rest.rows, token, row, quad);
    LaneKeys<F, false> part;
    part.begin(rows, at, quad);
    part.begin_scales(advanced<F>(rest.rows, token + row), at);
    score<F>(rows, part, rest.book, second, at, s);
  }

  // Raises the running maxima and the bound of the value scales when this tile passes them, which is rare.
  KV_FUNC void keep_in_range(KV_THREAD const TileC (&s)[TILES], float widest) {
    bool passed = widest > bound;
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j)
        passed = passed || larger(s[t].v[j], s[t].v[2 + j]) > peak[t][j] + slack();
    }
    if (!simd_some(passed)) return;
    KV_UNROLL for (int i = 0; i < 3; ++i) widest = larger(widest, simd_swap(widest, row_step(i)));
    float shrink = 1.0f;
    if (widest > bound) {
      const float old = lift;
      bound = bits_float(((float_bits(widest) >> 23) + 1u) << 23);
      lift = bits_float((260u << 23) - float_bits(bound));  // 64 / bound
      shrink = bits_float(float_bits(lift) - float_bits(old) + (127u << 23));  // powers of two
    }
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j) {
        float top = larger(s[t].v[j], s[t].v[2 + j]);
        KV_UNROLL for (int i = 0; i < 3; ++i) top = larger(top, simd_swap(top, row_step(i)));
        top = larger(top, peak[t][j]);
        const float decay = fast_exp2(peak[t][j] - top);
        peak[t][j] = top;
        sum[t][j] *= decay;
        KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[t][j][g] *= decay;
        KV_UNROLL for (int i = 0; i < output_tiles; ++i) {
          out[t][i].v[j] *= decay * shrink;
          out[t][i].v[2 + j] *= decay * shrink;
        }
      }
    }
  }

  // Adds the tile's values under probabilities p, each group of channels with its scale inside p.
  KV_FUNC void accumulate(KV_THREAD const Stored<K, V, R>& stored, KV_THREAD const Cursor<K, V>& cursor,
                          KV_THREAD const Tokens& at, KV_THREAD LaneValues<V>& values, KV_THREAD const TileC (&p)[TILES],
                          KV_THREAD const Scales<V> (&scales)[2], KV_THREAD const Scales<V> (&biases)[2]) {
    KV_UNROLL for (int g = 0; g < V::groups; ++g) {
      float scale[2];
      KV_UNROLL for (int r = 0; r < 2; ++r) scale[r] = V::meta >= META_SCALE ? scales[r].at(g) : 1.0f;
      if (V::meta == META_BIAS) {
        KV_UNROLL for (int r = 0; r < 2; ++r) {
          const float bias = fast_fma(scale[r], float(V::center), biases[r].at(g));
          KV_UNROLL for (int t = 0; t < TILES; ++t) {
            KV_UNROLL for (int j = 0; j < 2; ++j) shift[t][j][g] = fast_fma(p[t].v[2 * r + j], bias, shift[t][j][g]);
          }
        }
      }
      TileB weights[TILES][TERMS];
      const float upper = scale[0] * lift, lower = scale[1] * lift;
      KV_UNROLL for (int t = 0; t < TILES; ++t) {
        float w[4] = {p[t].v[0] * upper, p[t].v[1] * upper, p[t].v[2] * lower, p[t].v[3] * lower};
        KV_UNROLL for (int term = 0; term < TERMS; ++term) {
          weights[t][term] = tile_b_from_c(w[0], w[1], w[2], w[3]);
          KV_UNROLL for (int e = 0; e < 4; ++e) w[e] = half_rest(w[e]);
        }
      }
      KV_UNROLL for (int uu = 0; uu < ValueCut::units_per_group; ++uu) {
        const int u = g * ValueCut::units_per_group + uu;
        values.fetch(cursor.values, at, u, row, stored.value_book);
        KV_UNROLL for (int w = 0; w < ValueCut::words; ++w) {
          KV_UNROLL for (int i = 0; i < ValueCut::pairs; ++i) {
            const TileA a = values.tile(u, w, i, stored.value_book);
            KV_UNROLL for (int t = 0; t < TILES; ++t) {
              KV_UNROLL for (int term = 0; term < TERMS; ++term)
                multiply_add(out[t][(u * ValueCut::words + w) * ValueCut::pairs + i], a, weights[t][term]);
            }
          }
        }
      }
    }
  }

  // A head that the lane holds, among those of the threadgroup.
  KV_FUNC int head_of(int t, int j) const { return first_head + 8 * t + 2 * quad + j; }
  // Adds up what the lanes of a column hold.
  KV_FUNC void finish() {
    KV_UNROLL for (int i = 0; i < 3; ++i) {
      KV_UNROLL for (int t = 0; t < TILES; ++t) {
        KV_UNROLL for (int j = 0; j < 2; ++j) {
          sum[t][j] += simd_swap(sum[t][j], row_step(i));
          if (V::meta == META_BIAS) {
            KV_UNROLL for (int g = 0; g < V::groups; ++g) shift[t][j][g] += simd_swap(shift[t][j][g], row_step(i));
          }
        }
      }
    }
  }
  KV_FUNC void leave_peaks(KV_SHARED(float) peaks) const {
    if (row != 0) return;
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j)
        peaks[8 * t + 2 * quad + j] = larger(peak[t][j], scoring.sink(head_of(t, j)));
    }
  }
  KV_FUNC void leave_sums(KV_SHARED(float) sums) const {
    if (row != 0) return;
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j)
        sums[8 * t + 2 * quad + j] = fast_fma(sum[t][j], weight[t][j], rest[t][j]);
    }
  }
  // Weights of this simdgroup among STRIPES with the same heads, whose maxima are [stripe][HEADS].
  template <int HEADS, int STRIPES>
  KV_FUNC void weigh(KV_SHARED(float) peaks) {
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j) {
        float top = lowest_peak();
        KV_UNROLL for (int s = 0; s < STRIPES; ++s) top = larger(top, peaks[s * HEADS + 8 * t + 2 * quad + j]);
        weight[t][j] = fast_exp2(peak[t][j] - top);
        rest[t][j] = scoring.share(head_of(t, j), top);
      }
    }
  }
  // Output tiles [first, first + COUNT), weighted, as [head][tile][16 rows].
  template <int COUNT>
  KV_FUNC void store(KV_SHARED(float) memory, int first) const {
    const float unlift = ValueCut::gain() * bits_float((254u << 23) - float_bits(lift));  // 1 / lift is a power of two
    KV_UNROLL for (int t = 0; t < TILES; ++t) {
      KV_UNROLL for (int j = 0; j < 2; ++j) {
        const float factor = unlift * weight[t][j];
        KV_UNROLL for (int i = 0; i < COUNT; ++i) {
          if (first + i < output_tiles) {
            const float bias = V::meta == META_BIAS ? shift[t][j][Output<V>::group(first + i)] * weight[t][j] : 0.0f;
            KV_UNROLL for (int r = 0; r < 2; ++r)
              memory[((8 * t + 2 * quad + j) * COUNT + i) * 16 + row + 8 * r] =
                  fast_fma(out[t][first + i].v[2 * r + j], factor, bias);
          }
        }
      }
    }
  }
};

}  // namespace kv
