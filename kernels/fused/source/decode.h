// Decode attention over one (batch, KV head): packed tokens by the matrix or the scalar body, 16-bit tokens before and
// behind them by the scalar body. A threadgroup works on one part of one of the three runs of tokens.

namespace kv {

enum Parameter {
  PACKED_COUNT = 0, PACKED_PARTS = 1, HEAD_COUNT = 2, HEAD_PARTS = 3, TAIL_COUNT = 4, TAIL_PARTS = 5, SCALE_BITS = 6,
  PACKED_KEY = 7, PACKED_VALUE = 8, HEAD_KEY = 9, HEAD_VALUE = 10, TAIL_KEY = 11, TAIL_VALUE = 12  // first tokens
};

// How CHUNKS sets of heads and stripes of tokens are dealt to SIMDS simdgroups.
template <int GQA, int HEADS, int SIMDS>
struct Deal {
  KV_CONST int chunks = (GQA + HEADS - 1) / HEADS;
  KV_CONST int stripes = SIMDS >= chunks ? SIMDS / chunks : 1;
  KV_CONST int slots = SIMDS / stripes;
};

// Sizes that follow from the template arguments of a kernel. K and V are formats.
template <typename K, typename V, int GQA, int MATRIX, int SIMDS>
struct Decode {
  KV_CONST int dim = K::dim;
  KV_CONST int tiles = GQA > 8 && dim <= 256 ? 2 : 1;  // 8-head tiles of a simdgroup
  KV_CONST int packed_heads = MATRIX ? 8 * tiles : least(least(GQA, 4), most(1, 512 / dim));
  KV_CONST int dense_heads = least(GQA, dim <= 64 ? 2 : 1);  // few registers: this body must not be the larger one
  KV_CONST int padded = (GQA + packed_heads - 1) / packed_heads * packed_heads;
  typedef MatrixQuery<K, GQA, padded, SIMDS> Query;
  typedef Publish<packed_heads, dim / 16, SIMDS> PackedPublish;
  typedef Publish<dense_heads, dim / 16, SIMDS> DensePublish;
  KV_CONST int memory_floats = most(PackedPublish::floats, DensePublish::floats);
  KV_CONST int query_floats = MATRIX ? Query::floats : 4;
  KV_CONST int query_words = MATRIX ? Query::words : 4;
};

template <typename F, typename C>
KV_FUNC Rows<F> rows_of(KV_DEVICE(const C) codes, i64 code_offset, KV_DEVICE(const typename F::Scale) scales,
                        i64 scale_offset, KV_DEVICE(const typename F::Scale) biases, i64 bias_offset, i64 first) {
  Rows<F> rows = {bytes_of(codes + code_offset) + first * F::row_bytes, scales + scale_offset + first * F::groups,
                  biases + bias_offset + first * F::groups};
  return rows;
}

// Fills the table of pairs of a codebook, [2^bits] float32 in device memory.
template <typename F>
KV_FUNC void fill_book(KV_DEVICE(const float) book, KV_SHARED(uint) table, int thread, int threads) {
  if (!F::book) return;
  for (int i = thread; i < F::book_entries; i += threads)
    table[i] = pair_bits(make_pair(book[i & ((1 << F::bits) - 1)], book[i >> F::bits]));
}

// q points at the group's first head, [GQA, D]; scale includes log2(e).
template <typename K, typename V, int GQA, int HEADS, int SIMDS, int AHEAD, typename Q>
KV_FUNC void decode_scalar(KV_THREAD const Stored<K, V>& stored, KV_THREAD const Span& span,
                           KV_THREAD const Place& place, KV_DEVICE(const Q) q, float scale, KV_SHARED(float) memory,
                           KV_DEVICE(float) partials, KV_DEVICE(float) leads) {
  typedef Deal<GQA, HEADS, SIMDS> Dealt;
  typedef ScalarBody<K, V, HEADS> Body;
  for (int first = 0; first < Dealt::chunks; first += Dealt::slots) {
    const int chunk = first + place.simd / Dealt::stripes;
    Body body;
    // A simdgroup without heads works on none, but meets the others at the barriers.
    const int present = least(most(GQA - chunk * HEADS, 0), HEADS);
    body.begin(present > 0 ? q + chunk * HEADS * K::dim : q, present, scale, place.lane);
    if (present > 0)
      sweep<AHEAD>(body, stored, span, place.lane, place.simd % Dealt::stripes, Dealt::stripes);
    publish<Body, V, GQA, HEADS, SIMDS, Dealt::stripes>(body, place, first, memory, partials, leads);
  }
}

template <typename K, typename V, int GQA, int TILES, int SIMDS, int AHEAD, typename Query, typename Q>
KV_FUNC void decode_matrix(KV_THREAD const Stored<K, V>& stored, KV_THREAD const Span& span,
                           KV_THREAD const Place& place, KV_THREAD Query& query, KV_DEVICE(const Q) q, float scale,
                           KV_SHARED(float) memory, KV_DEVICE(float) partials, KV_DEVICE(float) leads) {
  typedef Deal<GQA, 8 * TILES, SIMDS> Dealt;
  typedef MatrixBody<K, V, TILES, Query> Body;
  static_assert(Dealt::chunks <= SIMDS, "every 8-head tile needs a simdgroup");
  query.prepare(q, scale, place);
  const int slot = place.simd / Dealt::stripes;
  Body body;
  body.queries = query;
  body.begin(q, place.lane, slot * TILES);
  sweep<AHEAD>(body, stored, span, place.lane, place.simd % Dealt::stripes, Dealt::stripes);
  publish<Body, V, GQA, 8 * TILES, SIMDS, Dealt::stripes>(body, place, 0, memory, partials, leads);
}

// Chooses the body at compile time; the other one is not instantiated.
template <int MATRIX>
struct DecodePacked {
  template <typename K, typename V, int GQA, int SIMDS, int AHEAD, typename Q>
  static KV_FUNC void run(KV_THREAD const Stored<K, V>& stored, KV_THREAD const Span& span,
                          KV_THREAD const Place& place, KV_DEVICE(const Q) q, float scale, KV_SHARED(float) memory,
                          KV_SHARED(float) query_memory, KV_SHARED(uint) query_words, KV_DEVICE(float) partials,
                          KV_DEVICE(float) leads) {
    typedef Decode<K, V, GQA, MATRIX, SIMDS> Sizes;
    typename Sizes::Query query = {query_memory, query_memory + Sizes::padded, query_memory + 2 * Sizes::padded,
                                   query_words};
    decode_matrix<K, V, GQA, Sizes::tiles, SIMDS, AHEAD>(stored, span, place, query, q, scale, memory, partials,
                                                         leads);
  }
};
template <>
struct DecodePacked<0> {
  template <typename K, typename V, int GQA, int SIMDS, int AHEAD, typename Q>
  static KV_FUNC void run(KV_THREAD const Stored<K, V>& stored, KV_THREAD const Span& span,
                          KV_THREAD const Place& place, KV_DEVICE(const Q) q, float scale, KV_SHARED(float) memory,
                          KV_SHARED(float), KV_SHARED(uint), KV_DEVICE(float) partials, KV_DEVICE(float) leads) {
    decode_scalar<K, V, GQA, Decode<K, V, GQA, 0, SIMDS>::packed_heads, SIMDS, AHEAD>(
        stored, span, place, q, scale, memory, partials, leads);
  }
};

}  // namespace kv
