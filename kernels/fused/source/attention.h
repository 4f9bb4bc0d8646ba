// What both bodies of decode attention share: the split of a threadgroup, the loop over tiles of 16 tokens, constants.
// Scores are base-2 logarithms throughout.

namespace kv {

KV_FUNC constexpr float lowest_peak() { return -1.0e30f; }   // the running maximum before the first token
KV_FUNC constexpr float hidden_score() { return -2.0e30f; }  // the score of a token that is not there
KV_FUNC constexpr float slack() { return 8.0f; }             // powers of two by which scores may pass the running maximum

// The place of this thread in the problem.
struct Place {
  int lane, simd;     // lane of the simdgroup, simdgroup of the threadgroup
  i64 first_head;     // of the query heads that this threadgroup works on, counted over all batch entries
  int heads;          // how many they are
  int split, splits;  // the partial that this threadgroup computes, and the partials of a query head
};

// A run of `count` tokens that are held in one form; this threadgroup works on `part` of `parts`.
struct Span {
  int count, part, parts;
};

// A second part of every key, in a format of its own: latent attention's rotary part. Absent stands for none.
struct Absent {};
template <typename R>
struct Rest {
  Rows<R> rows;
  KV_SHARED(uint) book;
};
template <>
struct Rest<Absent> {};

// Packed keys and values of one (batch, KV head), and the tables of their codebooks.
template <typename K, typename V, typename R>
struct Stored {
  typedef K Key;
  typedef V Value;
  Rows<K> keys;
  Rows<V> values;
  KV_SHARED(uint) key_book;
  KV_SHARED(uint) value_book;
  Rest<R> rest;
};

// What two stored sides A and B are: keys and values; or, LATENT, latents that are keys and values, and the rest of keys.
template <typename A, typename B, int LATENT>
struct Sides {
  typedef B Values;
  typedef Absent RestOfKeys;
  typedef Stored<A, B, Absent> Held;

  static KV_FUNC Held of(KV_THREAD const Rows<A>& a, KV_THREAD const Rows<B>& b, KV_SHARED(uint) a_book,
                         KV_SHARED(uint) b_book) {
    Held held = {a, b, a_book, b_book, Rest<Absent>()};
    return held;
  }
  static KV_FUNC KV_SHARED(uint) second_book(KV_THREAD const Held& held) { return held.value_book; }
};
template <typename A, typename B>
struct Sides<A, B, 1> {
  typedef A Values;
  typedef B RestOfKeys;
  typedef Stored<A, A, B> Held;

  static KV_FUNC Held of(KV_THREAD const Rows<A>& a, KV_THREAD const Rows<B>& b, KV_SHARED(uint) a_book,
                         KV_SHARED(uint) b_book) {
    Held held = {a, a, a_book, a_book, {b, b_book}};
    return held;
  }
  static KV_FUNC KV_SHARED(uint) second_book(KV_THREAD const Held& held) { return held.rest.book; }
};

// Where a lane reads for a tile: its runs of keys and the scales of both from token `row` on, its runs of values from token
// 2 `quad` on.
template <typename K, typename V>
struct Cursor {
  Rows<K> keys, key_scales;
  Rows<V> values, value_scales;
};
template <typename F>
KV_FUNC Rows<F> advanced(KV_THREAD const Rows<F>& rows, i64 tokens) {
  Rows<F> next = {rows.codes + tokens * F::row_bytes, rows.scales + tokens * F::fields, rows.biases + tokens * F::fields,
                  rows.first + int(tokens)};
  return next;
}
template <typename F, int SHARERS>
struct LaneOffset {
  static KV_FUNC int of(int member) { return run_offset<F, SHARERS>(member); }
};
template <typename F, typename N, int SHARERS>
struct LaneOffset<Scaled<F, N>, SHARERS> {
  static KV_FUNC int of(int member) { return Decoder<F, SHARERS, Scaled<F, N>::kind>::offset(member); }
};
// Rows from `further` tokens behind `token` on, of which codes begin with the run of `member`.
template <typename F, int SHARERS>
KV_FUNC Rows<F> lane_rows(KV_THREAD const Rows<F>& rows, i64 token, int further, int member) {
  Rows<F> next = advanced<F>(rows, token + further);
  next.codes = rows.codes + (further * F::row_bytes + LaneOffset<F, SHARERS>::of(member)) + token * F::row_bytes;
  return next;
}
template <typename K, typename V, typename R>
KV_FUNC Cursor<K, V> cursor_of(KV_THREAD const Stored<K, V, R>& stored, i64 token, int row, int quad) {
  Cursor<K, V> at = {lane_rows<K, 4>(stored.keys, token, row, quad), advanced<K>(stored.keys, token + row),
                     lane_rows<V, 8>(stored.values, token, 2 * quad, row), advanced<V>(stored.values, token + row)};
  return at;
}

// The tokens of a tile that a lane works on, relative to its cursor: two whose scores it holds, four whose values it
// unpacks. Beyond the last of `left` tokens the last one is read again.
struct Tokens {
  int near[2];
  int far[4];
};
template <bool FULL>
KV_FUNC Tokens tokens_of(int left, int row, int quad) {
  Tokens at;
  KV_UNROLL for (int r = 0; r < 2; ++r) at.near[r] = FULL ? 8 * r : least(8 * r, left - 1 - row);
  KV_UNROLL for (int i = 0; i < 4; ++i) {
    const int token = (i & 1) + 8 * (i >> 1);
    at.far[i] = FULL ? token : least(token, left - 1 - 2 * quad);
  }
  return at;
}

// A lane's share of asking for a tile before it is needed: 32-byte lines of the codes, and a line of some scales.
template <typename F>
KV_FUNC void prefetch_codes(KV_THREAD const Rows<F>& rows, i64 token, int lane) {
  const int lines = F::row_bytes / 2;  // of 16 tokens
  KV_UNROLL for (int i = 0; i < lines; i += 32) {
    if (lines - i >= 32 || lane < lines - i) prefetch(rows.codes + lane * 32 + token * F::row_bytes + i * 32);
  }
}
template <typename F>
KV_FUNC void prefetch_lines(KV_DEVICE(const F) scales, KV_DEVICE(const F) biases, int bytes, bool both, int lane) {
  KV_UNROLL for (int i = 0; i < bytes; i += 512) {
    const int at = i + (lane & 15) * 32;
    if (at < bytes && (both || lane < 16)) prefetch(bytes_of(lane < 16 ? scales : biases) + at);
  }
}
template <typename F>
struct ScaleLines {
  static KV_FUNC void ask(KV_THREAD const Rows<F>& rows, i64 token, int lane) {
    const i64 at = token * F::fields;
    if (F::header > 0 || F::meta == META_NONE) return;
    prefetch_lines<typename F::Scale>(rows.scales + at, rows.biases + at, 16 * F::fields * int(sizeof(typename F::Scale)),
                                      F::meta == META_BIAS, lane);
  }
};
template <typename F, typename N>
struct ScaleLines<Scaled<F, N>> {
  static KV_FUNC void ask(KV_THREAD const Rows<Scaled<F, N>>& rows, i64 token, int lane) {
    const bool channels = F::meta == META_CHANNELS;
    const i64 at = channels ? (rows.first + token) / F::group * F::dim : token * F::fields;
    if (F::header > 0) return;
    prefetch_lines<typename F::Scale>(rows.scales + at, rows.biases + at,
                                      (channels ? F::dim : 16 * F::fields) * int(sizeof(typename F::Scale)), channels, lane);
  }
};
KV_FUNC void prefetch_rest(KV_THREAD const Rest<Absent>&, i64, int) {}
template <typename R>
KV_FUNC void prefetch_rest(KV_THREAD const Rest<R>& rest, i64 token, int lane) {
  prefetch_codes<R>(rest.rows, token, lane);
  ScaleLines<R>::ask(rest.rows, token, lane);
}
template <typename Source>
KV_FUNC void prefetch_tile(KV_THREAD const Source& source, i64 token, int lane) {
  prefetch_codes<typename Source::Key>(source.keys, token, lane);
  prefetch_codes<typename Source::Value>(source.values, token, lane);
  ScaleLines<typename Source::Key>::ask(source.keys, token, lane);
  ScaleLines<typename Source::Value>::ask(source.values, token, lane);
  prefetch_rest(source.rest, token, lane);
}

// The tiles of a simdgroup: every STRIPES-th of the part, and how far ahead it asks for them. Nothing behind the run
// is touched: the last whole tile is the last one asked for.
struct Stripe {
  int tile, stop, stripes, count;
  bool asks;

  template <typename Source>
  KV_FUNC void ask(KV_THREAD const Source& source, int ahead, int lane) const {
    if (asks) prefetch_tile(source, least(16 * (tile + ahead * stripes), count - 16), lane);
  }
};
KV_FUNC Stripe stripe_of(KV_THREAD const Span& span, int stripe, int stripes, int ahead) {
  const int tiles = (span.count + 15) / 16;
  Stripe at = {(int)((i64)tiles * span.part / span.parts) + stripe, (int)((i64)tiles * (span.part + 1) / span.parts),
               stripes, span.count, ahead > 0 && span.count >= 16};
  return at;
}

// Runs a body over its tiles; AHEAD of them are asked for before they are needed, the first AHEAD by the caller.
template <int AHEAD, typename Body, typename Source>
KV_FUNC void sweep(KV_THREAD Body& body, KV_THREAD const Source& source, KV_THREAD Stripe& at, int lane) {
  if (at.tile < at.stop) body.begin_tile(source, 16 * at.tile, at.count - 16 * at.tile);
  for (; at.tile < at.stop; at.tile += at.stripes) {
    if (AHEAD > 0) at.ask(source, AHEAD, lane);
    const int token = 16 * at.tile, next = token + 16 * at.stripes, left = at.count - token;
    const int next_left = at.tile + at.stripes < at.stop ? at.count - next : 0;
    if (left >= 16) {
      body.template step<true>(source, token, 16, next, next_left);
    } else {
      body.template step<false>(source, token, left, next, next_left);
    }
  }
}

// Recent tokens of one (batch, KV head), planes of A and then of B, and this threadgroup's part of them; none for ROOM 0.
template <typename A, typename B, int LATENT, int ROOM>
struct Newest {
  KV_CONST bool none = false;
  KV_DEVICE(const uchar) planes;
  Span span;

  template <typename Held>
  KV_FUNC void put(KV_THREAD Held& held) const {
    held = Sides<A, B, LATENT>::of(Planes<A, ROOM>::rows(planes), Planes<B, ROOM>::rows(planes + Planes<A, ROOM>::bytes),
                                   held.key_book, Sides<A, B, LATENT>::second_book(held));
  }
};
template <typename A, typename B, int LATENT>
struct Newest<A, B, LATENT, 0> {
  KV_CONST bool none = true;
  KV_DEVICE(const uchar) planes;
  Span span;

  template <typename Held>
  KV_FUNC void put(KV_THREAD Held&) const {}
};

// The same over the tokens of `source`, then over the recent ones behind them, one body of code for both.
template <int AHEAD, typename Body, typename Source, typename Recent>
KV_FUNC void sweep_both(KV_THREAD Body& body, KV_THREAD const Source& source, KV_THREAD const Span& span,
                        KV_THREAD Stripe& at, KV_THREAD const Recent& recent, int share, int shares, int lane) {
  Source now = source;
  KV_UNROLL_1 for (int run = 0; run < 2; ++run) {
    sweep<AHEAD>(body, now, at, lane);
    if (Recent::none || recent.span.count == 0) return;
    recent.put(now);
    body.scoring = body.scoring.from(span.count);
    at = stripe_of(recent.span, share, shares, 0);
  }
}

}  // namespace kv
