// What both bodies of decode attention share: the split of a threadgroup, the loop over tiles of 16 tokens, constants.
// Scores are base-2 logarithms throughout.

namespace kv {

KV_FUNC constexpr float lowest_peak() { return -1.0e30f; }   // the running maximum before the first token
KV_FUNC constexpr float hidden_score() { return -2.0e30f; }  // the score of a token that is not there
KV_FUNC constexpr float slack() { return 8.0f; }             // powers of two by which scores may pass the running maximum

// The place of this thread in the problem.
struct Place {
  int lane, simd;          // lane of the simdgroup, simdgroup of the threadgroup
  int batch, kv_head, kv_heads;
  int split, splits;       // the partial that this threadgroup computes, and the partials of a query head
};

// A run of `count` tokens that are held in one form; this threadgroup works on `part` of `parts`.
struct Span {
  int count, part, parts;
};

// Packed keys and values of one (batch, KV head), and the tables of their codebooks.
template <typename K, typename V>
struct Stored {
  typedef K Key;
  typedef V Value;
  Rows<K> keys;
  Rows<V> values;
  KV_SHARED(uint) key_book;
  KV_SHARED(uint) value_book;
};

// The tokens of a tile that one lane works on: two whose scores it holds, four whose values it unpacks. Beyond the
// last of `left` tokens the last one is read again.
struct Tokens {
  i64 first;
  int near[2];
  int far[4];
};
template <bool FULL>
KV_FUNC Tokens tokens_of(i64 first, int left, int row, int quad) {
  Tokens at;
  at.first = first;
  KV_UNROLL for (int r = 0; r < 2; ++r) at.near[r] = FULL ? row + 8 * r : least(row + 8 * r, left - 1);
  KV_UNROLL for (int i = 0; i < 4; ++i) {
    const int token = 2 * quad + (i & 1) + 8 * (i >> 1);
    at.far[i] = FULL ? token : least(token, left - 1);
  }
  return at;
}

template <typename F>
KV_FUNC void prefetch_rows(KV_THREAD const Rows<F>& rows, i64 token, int left, int lane) {
  const int lines = F::row_bytes / 2;  // 16 rows in lines of 32 bytes
  KV_UNROLL for (int i = 0; i < (lines + 31) / 32; ++i) {
    const int line = i * 32 + lane;
    const int row = line * 32 / F::row_bytes;
    if (line < lines && row < left) prefetch(rows.codes + ((token + row) * F::row_bytes + line * 32 % F::row_bytes));
  }
  if (F::header == 0 && F::meta > 0 && (lane & 15) < left) {
    const i64 at = (token + (lane & 15)) * F::groups;
    if (lane < 16) prefetch(bytes_of(rows.scales + at));
    if (lane >= 16 && F::meta == META_BIAS) prefetch(bytes_of(rows.biases + at));
  }
}

template <typename Source>
KV_FUNC void prefetch_tile(KV_THREAD const Source& source, int token, int count, int lane) {
  prefetch_rows<typename Source::Key>(source.keys, token, count - token, lane);
  prefetch_rows<typename Source::Value>(source.values, token, count - token, lane);
}

// Runs a body over every tile of its stripe; AHEAD tiles are asked for before they are needed.
template <int AHEAD, typename Body, typename Source>
KV_FUNC void sweep(KV_THREAD Body& body, KV_THREAD const Source& source, KV_THREAD const Span& span, int lane,
                   int stripe, int stripes) {
  const int tiles = (span.count + 15) / 16;
  const int stop = (int)((i64)tiles * (span.part + 1) / span.parts);
  int tile = (int)((i64)tiles * span.part / span.parts) + stripe;
  for (int i = 0; i < AHEAD; ++i) prefetch_tile(source, 16 * (tile + i * stripes), span.count, lane);
  for (; tile < stop; tile += stripes) {
    if (AHEAD > 0) prefetch_tile(source, 16 * (tile + AHEAD * stripes), span.count, lane);
    const int left = span.count - 16 * tile;
    if (left >= 16) {
      body.template step<true>(source, 16 * tile, 16);
    } else {
      body.template step<false>(source, 16 * tile, left);
    }
  }
}

}  // namespace kv
