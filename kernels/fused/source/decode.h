// Decode attention over one (batch, KV head): packed tokens by the matrix or the scalar body, 16-bit tokens before and
// behind them by the scalar body. A threadgroup works on one part of one of the three runs of tokens.

namespace kv {

// What counts_strides carries, two numbers of 32 bits in each: tokens in the store and recent ones; the first tokens of keys
// and values in the store; parts of packed tokens, of those before them; of those behind, and KV heads; the scale as the
// bits of a float, and the column of the bias that belongs to the first packed token; and of the 16-bit tokens before and
// behind the packed ones how many they are and the first of their keys and values.
enum Count { PACKED_COUNT, PACKED_FIRST, PARTS, TAIL_PARTS, SCALE, DENSE_COUNT, HEAD_FIRST, TAIL_FIRST };
KV_FUNC int low_number(i64 x) { return int(uint(x)); }
KV_FUNC int high_number(i64 x) { return int(x >> 32); }

// How CHUNKS sets of heads and stripes of tokens are dealt to SIMDS simdgroups.
template <int GQA, int HEADS, int SIMDS>
struct Deal {
  KV_CONST int chunks = (GQA + HEADS - 1) / HEADS;
  KV_CONST int stripes = SIMDS >= chunks ? SIMDS / chunks : 1;
  KV_CONST int slots = SIMDS / stripes;
};

// Sizes that follow from the template arguments of a kernel. K, V and R are formats, R of the rest of keys; GQA is the most query heads that a
// threadgroup works on; MATRIX is 0 for the scalar body, or the number of float16 terms by which the matrix body holds a
// query or a weight.
template <typename K, typename V, typename R, int GQA, int MATRIX, int SIMDS>
struct Decode {
  KV_CONST int dim = most(K::dim, V::dim);
  KV_CONST int tiles = GQA > 8 && dim <= 256 ? 2 : 1;  // 8-head tiles of a simdgroup
  KV_CONST int packed_heads = MATRIX ? 8 * tiles : least(least(GQA, 4), most(1, 512 / dim));
  KV_CONST int dense_heads = least(GQA, dim <= 64 ? 2 : 1);  // few registers: this body must not be the larger one
  typedef Deal<GQA, packed_heads, SIMDS> Dealt;
  // With many simdgroups there are registers either for queries or for keys ahead: plain codes of few bits, which cost the fewest
  // instructions, wait for queries in threadgroup memory, others for their keys.
  KV_CONST bool hold = SIMDS >= 8 && K::meta == META_BIAS && K::bits <= 4;
  typedef MatrixQuery<K, tiles, most(1, MATRIX), Dealt::chunks, SIMDS, hold> Query;
  typedef typename RestQuery<R, tiles, most(1, MATRIX), Dealt::chunks, SIMDS>::Query Second;
  KV_CONST int room = MATRIX && !Query::held ? 2048 : 4096;  // floats through which output passes
  typedef Publish<packed_heads, V::dim / 16, SIMDS, room> PackedPublish;
  typedef Publish<dense_heads, V::dim / 16, SIMDS, room> DensePublish;
  KV_CONST int memory_floats = most(PackedPublish::floats, DensePublish::floats);
  KV_CONST int query_floats = MATRIX ? Query::floats + Second::floats : 4;
  KV_CONST int query_halves = MATRIX ? Query::halves + Second::halves : 4;
};

template <typename F, typename C, typename B>
KV_FUNC Rows<F> rows_of(KV_DEVICE(const C) codes, i64 code_offset, KV_DEVICE(const typename F::Scale) scales,
                        i64 scale_offset, KV_DEVICE(const B) biases, i64 bias_offset, i64 first) {
  Rows<F> rows = {bytes_of(codes + code_offset), scales + scale_offset,
                  typed<typename F::Scale>(bytes_of(biases + bias_offset)), 0};
  return advanced<F>(rows, first);
}

// Fills the table of a codebook, [2^bits] in device memory.
template <typename F>
struct Book {
  template <typename B>
  static KV_FUNC void fill(KV_DEVICE(const B) book, KV_SHARED(uint) table, int index, int step) {
    if (!F::book) return;
    for (int i = index; i < F::book_entries; i += step) {
      const int entry = i / F::book_copies;
      table[i] = pair_bits(make_pair(to_float(book[entry & ((1 << F::bits) - 1)]),
                                     F::book_pairs ? to_float(book[entry >> F::bits]) : 0.0f));
    }
  }
};
template <typename F, typename N>
struct Book<Scaled<F, N>> {
  template <typename B>
  static KV_FUNC void fill(KV_DEVICE(const B) book, KV_SHARED(uint) table, int index, int step) {
    DecoderTable<F, N, Scaled<F, N>::kind>::fill(book, table, index, step);
  }
};

// The query heads of one group as the caller holds them.
template <typename Q>
struct Heads {
  KV_DEVICE(const Q) first;
  i64 head_stride, channel_stride;

  KV_FUNC float at(int head, int channel) const {
    return to_float(first[head * head_stride + channel * channel_stride]);
  }
  KV_FUNC Heads from(int channel) const {
    Heads next = {first + channel * channel_stride, head_stride, channel_stride};
    return next;
  }
};

// Queries, threadgroup memory, and where the result goes.
template <typename Q, typename Scoring, typename Sink>
struct Work {
  Q q;
  float scale;  // includes log2(e)
  Scoring scoring;
  KV_SHARED(float) memory;
  KV_SHARED(float) query_floats;
  KV_SHARED(half_t) query_halves;
  Sink sink;
};

template <typename Plan, int GQA, int HEADS, int SIMDS, int AHEAD, typename K, typename V, typename R, typename Recent,
          typename Q, typename Scoring, typename Sink>
KV_FUNC void decode_scalar(KV_THREAD const Stored<K, V, R>& stored, KV_THREAD const Span& span,
                           KV_THREAD const Recent& recent, KV_THREAD const Place& place,
                           KV_THREAD const Work<Q, Scoring, Sink>& work) {
  typedef Deal<GQA, HEADS, SIMDS> Dealt;
  typedef ScalarBody<K, V, R, HEADS, Scoring> Body;
  for (int first = 0; first < Dealt::chunks; first += Dealt::slots) {
    if (first > 0) group_sync();
    const int chunk = first + place.simd / Dealt::stripes;
    const int share = place.simd % Dealt::stripes;
    Stripe stripe = stripe_of(span, share, Dealt::stripes, AHEAD);
    KV_UNROLL for (int i = 0; i < AHEAD; ++i) stripe.ask(stored, i, place.lane);
    Body body;
    // A simdgroup without heads works on none, but meets the others at the barriers.
    const int present = least(most(place.heads - chunk * HEADS, 0), HEADS);
    const bool first_tokens = place.split == 0 && share == 0;
    body.begin(work.q, chunk * HEADS, present, work.scale, work.scoring.where(first_tokens), place.lane);
    if (present > 0) sweep_both<AHEAD>(body, stored, span, stripe, recent, share, Dealt::stripes, place.lane);
    publish<Body, V, Plan, HEADS, SIMDS, Dealt::stripes>(body, place, first, work.memory, work.sink);
  }
}

// Chooses the body at compile time; the other one is not instantiated.
template <int MATRIX>
struct DecodePacked {
  template <int GQA, int SIMDS, int AHEAD, typename K, typename V, typename R, typename Recent, typename Q,
            typename Scoring, typename Sink>
  static KV_FUNC void run(KV_THREAD const Stored<K, V, R>& stored, KV_THREAD const Span& span,
                          KV_THREAD const Recent& recent, KV_THREAD const Place& place,
                          KV_THREAD const Work<Q, Scoring, Sink>& work) {
    typedef Decode<K, V, R, GQA, MATRIX, SIMDS> Sizes;
    typedef typename Sizes::Dealt Dealt;
    typedef typename Sizes::Query Query;
    typedef MatrixBody<K, V, R, Query, typename Sizes::Second, Scoring> Body;
    static_assert(Dealt::chunks <= SIMDS, "every set of heads needs a simdgroup");
    const int share = place.simd % Dealt::stripes, chunk = place.simd / Dealt::stripes;
    Stripe stripe = stripe_of(span, share, Dealt::stripes, AHEAD);
    KV_UNROLL for (int i = 0; i < AHEAD; ++i) stripe.ask(stored, i, place.lane);
    Body body;
    body.queries.prepare(work.q, work.scale, place, chunk, share, Dealt::stripes,
                         work.query_halves, work.query_floats);
    body.second.prepare(work.q.from(K::dim), work.scale, place, chunk, share, Dealt::stripes,
                        work.query_halves + Query::halves, work.query_floats + Query::floats);
    body.begin(chunk * Sizes::packed_heads, work.scoring.where(place.split == 0 && share == 0), place.lane);
    sweep_both<AHEAD>(body, stored, span, stripe, recent, share, Dealt::stripes, place.lane);
    publish<Body, V, typename Sizes::PackedPublish, Sizes::packed_heads, SIMDS, Dealt::stripes>(
        body, place, 0, work.memory, work.sink);
  }
};
template <>
struct DecodePacked<0> {
  template <int GQA, int SIMDS, int AHEAD, typename K, typename V, typename R, typename Recent, typename Q,
            typename Scoring, typename Sink>
  static KV_FUNC void run(KV_THREAD const Stored<K, V, R>& stored, KV_THREAD const Span& span,
                          KV_THREAD const Recent& recent, KV_THREAD const Place& place,
                          KV_THREAD const Work<Q, Scoring, Sink>& work) {
    typedef Decode<K, V, R, GQA, 0, SIMDS> Sizes;
    decode_scalar<typename Sizes::PackedPublish, GQA, Sizes::packed_heads, SIMDS, AHEAD>(
        stored, span, recent, place, work);
  }
};

}  // namespace kv
