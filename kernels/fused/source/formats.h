// How one side (keys or values) is packed: where a token's codes and scales lie, and how codes become numbers.

namespace kv {

enum CodeKind {
  CODES_UNSIGNED = 0,
  CODES_SIGNED = 1,
  CODES_BOOK = 2,
  CODES_FLOAT16 = 3,
  CODES_BFLOAT16 = 4,
  CODES_MINIFLOAT = 5,
  CODES_POLAR = 6,  // polarquant's angles: those of pairs, then those of levels 2 to 4, of two bits less
};
enum MetaKind { META_NONE = 0, META_SCALE = 1, META_BIAS = 2, META_CHANNELS = 3 };  // per channel: a group is of tokens
enum ScaleKind { SCALES_FLOAT = 0, SCALES_E8M0 = 1, SCALES_E4M3 = 2 };  // of S, or a byte: a power of two, an 8-bit float

KV_FUNC float to_float(uchar x) { return float(x); }  // a scale that is a byte
KV_FUNC constexpr int lowest_bit(int x) { return x & -x; }
KV_FUNC constexpr int lowest_exponent(int x) { return x & 1 ? 0 : 1 + lowest_exponent(x / 2); }
KV_FUNC uint moved(uint x, int right) { return right < 0 ? x << (-right & 31) : x >> (right & 31); }
KV_FUNC constexpr int least(int a, int b) { return a < b ? a : b; }
KV_FUNC constexpr int most(int a, int b) { return a > b ? a : b; }

// BITS per code; GROUP channels share a scale; DIM channels of a head. CODES is a CodeKind, META a MetaKind.
// BLOCK > 0: scale, bias and codes of a group lie together in BLOCK bytes (ggml); else in three arrays of META type S.
// HALVES: within 32 channels, code 2 i is channel i and code 2 i + 1 channel i + 16 (ggml's nibbles); of five bits, the
// fifth ones lie before the nibbles, in the order of channels, and four codes are channels c, c + 1, c + 16 and c + 17, for
// even c, which takes the fewest operations. Minifloats are e2m1 of 4 bits, or e4m3 of 8. SCALES is a ScaleKind.
template <int BITS, int GROUP, int DIM, int CODES, int META, int BLOCK, int HALVES, int SCALES, typename S>
struct Format {
  KV_CONST int bits = BITS;
  KV_CONST int group = GROUP;
  KV_CONST int dim = DIM;
  KV_CONST int meta = META;
  KV_CONST int groups = DIM / GROUP;
  KV_CONST int halves = HALVES;
  KV_CONST bool dense = CODES == CODES_FLOAT16 || CODES == CODES_BFLOAT16;
  KV_CONST bool bfloat = CODES == CODES_BFLOAT16;
  KV_CONST bool book = CODES == CODES_BOOK;
  KV_CONST bool fifths = HALVES && BITS == 5;
  // Groups so small, with scales that float16 holds, or codes in so many pieces, that they are scaled before products.
  KV_CONST bool small = SCALES == SCALES_E4M3 || (fifths && groups % 2 == 0);
  KV_CONST int header = BLOCK > 0 ? 2 * META + (fifths ? 4 : 0) : 0;
  KV_CONST bool polar = CODES == CODES_POLAR;
  KV_CONST int row_bytes = polar ? DIM / 2 * BITS / 8 + (7 * DIM / 16 * (BITS - 2) + 7) / 8
                                 : BLOCK > 0 ? groups * BLOCK : DIM * BITS / 8;
  KV_CONST int fields = META == META_CHANNELS ? 0 : groups;  // scales of a token
  KV_CONST int center = CODES <= CODES_SIGNED ? 1 << (BITS - 1) : 0;  // subtracted from every code: smaller rounding
  KV_CONST bool book_pairs = BITS <= 4;  // one look-up for two codes
  KV_CONST int book_copies = 1;  // of every entry, one behind the other
  KV_CONST int book_entries = book ? 1 << (book_pairs ? 2 * BITS : BITS) : 4;
  KV_CONST uint mask = CODES == CODES_BOOK || CODES <= CODES_SIGNED ? ((1u << BITS) - 1u) * 0x10001u : 0u;
  KV_CONST uint sign = CODES == CODES_SIGNED ? (1u << (BITS - 1)) * 0x10001u : 0u;  // two's complement to offset
  KV_CONST bool minifloat = CODES == CODES_MINIFLOAT;
  KV_CONST int fraction = BITS == 4 ? 1 : 3, exponent_bias = BITS == 4 ? 1 : 7;  // of a minifloat
  KV_CONST int scale_kind = SCALES;
  KV_CONST bool word_codes = BLOCK == 0 && (BITS == 2 || BITS == 4 || BITS == 8 || BITS == 16);

  typedef S Scale;

  static KV_FUNC constexpr int channel(int position) {
    return fifths   ? (position & ~31) + ((position & 28) >> 1) + (position & 1) + 8 * (position & 2)
           : HALVES ? (position & ~31) + ((position & 31) >> 1) + 16 * (position & 1)
                    : position;
  }
};

// Where the tokens of one (batch, head) lie.
template <typename F>
struct Rows {
  KV_DEVICE(const uchar) codes;
  KV_DEVICE(const typename F::Scale) scales;
  KV_DEVICE(const typename F::Scale) biases;
  int first;  // the index of the first token, where groups are of tokens
};

// Recent tokens: bytes of one side of one (batch, KV head), in planes of codes, scales and biases with room for ROOM tokens.
template <typename F, int ROOM>
struct Planes {
  KV_CONST int field = F::header > 0 || F::meta == META_NONE ? 0 : F::groups * int(sizeof(typename F::Scale));
  KV_CONST int scales = ROOM * F::row_bytes;
  KV_CONST int biases = scales + ROOM * field;
  KV_CONST int bytes = biases + (F::meta == META_BIAS ? ROOM * field : 0);

  static KV_FUNC Rows<F> rows(KV_DEVICE(const uchar) planes) {
    Rows<F> at = {planes, typed<typename F::Scale>(planes + scales), typed<typename F::Scale>(planes + biases), 0};
    return at;
  }
};

// The codes of one token that one of SHARERS lanes works on: in every unit of channels a run of its own, so that a
// unit never straddles two groups.
template <typename F, int SHARERS>
struct Slices {
  KV_CONST int cap = F::word_codes ? 128 / F::bits : 32 / F::bits >= 8 ? 8 : 4;
  KV_CONST int run = least(least(lowest_bit(F::group), lowest_bit(F::dim)) / SHARERS, cap);
  KV_CONST int unit = SHARERS * run;
  KV_CONST int units = F::dim / unit;
  KV_CONST int width = run * F::bits;  // bits of a run
  KV_CONST int words = most(1, width / 32);
  KV_CONST int codes = run / words;  // codes of a word
  KV_CONST int pairs = codes / 2;
  KV_CONST int units_per_group = F::group / unit;

  static KV_FUNC constexpr int channel(int position) { return F::channel(position); }
  static KV_FUNC constexpr float gain() { return 1.0f; }
};

template <int N>
struct Run {
  uint w[N];
};

// A word of n codes as two 16-bit halves that hold n / 2 codes each.
template <typename F, int CODES>
KV_FUNC uint spread(uint x) {
  const int bits = CODES * F::bits / 2;
  return bits == 16 ? x : (x & ((1u << bits) - 1u)) | ((x >> bits) << 16);
}

// WIDTH bits from bit `first` behind `row`, of any alignment.
template <int WIDTH>
KV_FUNC uint load_bits(KV_DEVICE(const uchar) row, int first) {
  const int last = (first + WIDTH - 1) >> 3;
  uint x = 0;
  KV_UNROLL for (int i = 0; i < (WIDTH + 14) / 8 && i < 4; ++i)
    x |= load_8(row + least((first >> 3) + i, last)) << (8 * i);
  return (x >> (first & 7)) & ((1u << (WIDTH & 31)) - 1u);
}

// Bytes from the beginning of a token to the run of `member` in unit 0; runs that begin within a byte are found later.
template <typename F, int SHARERS>
KV_FUNC int run_offset(int member) {
  typedef Slices<F, SHARERS> Cut;
  return Cut::width % 8 == 0 ? F::header + member * (Cut::width / 8) : 0;
}

// Loads the run of `member` in `unit`; `at` is its token's first byte plus run_offset. A run shorter than a word is spread
// over it, where asked for.
template <typename F, int SHARERS, bool SPREAD = true>
KV_FUNC void load_slice(KV_DEVICE(const uchar) at, int unit, int member,
                        KV_THREAD Run<Slices<F, SHARERS>::words>& out) {
  typedef Slices<F, SHARERS> Cut;
  if (F::fifths) {
    const int first = unit * Cut::unit + member * Cut::run, c = first % 32 / 2;
    const int block = first / F::group * (F::row_bytes / F::groups) + F::header;
    const uint fifths = (load_16(at + (block - 4)) | (load_16(at + (block - 2)) << 16)) >> c;
    const uint bytes = load_16(at + (block + c)), nibbles = bytes | (bytes << 12);
    out.w[0] = (nibbles & 0x000f000fu) | ((nibbles & 0x0f000f00u) >> 3) | ((fifths & 0x10001u) << 4) |
               ((fifths & 0x20002u) << 8);
  } else if (F::header > 0) {  // 2-byte alignment only
    const int first = unit * Cut::unit;
    const int base = first / F::group * (F::row_bytes / F::groups) + first % F::group * F::bits / 8;
    if (Cut::width >= 32) {
      KV_UNROLL for (int i = 0; i < Cut::words; ++i)
        out.w[i] = load_16(at + (base + 4 * i)) | (load_16(at + (base + 4 * i + 2)) << 16);
    } else {
      out.w[0] = SPREAD ? spread<F, Cut::codes>(load_16(at + base)) : load_16(at + base);
    }
  } else if (Cut::width >= 32) {
    Words<Cut::words> words;
    load_words<Cut::words>(at + unit * SHARERS * (Cut::width / 8), words);
    KV_UNROLL for (int i = 0; i < Cut::words; ++i) out.w[i] = words.w[i];
  } else if (Cut::width == 16) {
    out.w[0] = SPREAD ? spread<F, Cut::codes>(load_16(at + unit * SHARERS * 2)) : load_16(at + unit * SHARERS * 2);
  } else if (Cut::width == 8) {
    out.w[0] = SPREAD ? spread<F, Cut::codes>(load_8(at + unit * SHARERS)) : load_8(at + unit * SHARERS);
  } else {
    const int index = Cut::width % 8 == 0 ? unit * SHARERS : unit * SHARERS + member;
    out.w[0] = spread<F, Cut::codes>(load_bits<Cut::width>(at, index * Cut::width));
  }
}

// The same of small floats, their fields at the lower end of a float16's: off by a power of two, small numbers included.
template <typename F>
KV_FUNC uint minifloat_fields(uint x, int i) {
  const uint codes = x >> (i * F::bits), fields = ((1u << (F::bits - 1)) - 1u) << (10 - F::fraction);
  return ((codes << (10 - F::fraction)) & (fields * 0x10001u)) | ((codes << (16 - F::bits)) & 0x80008000u);
}

// Codes i of the lower and of the upper half of a spread word, as numbers without their scale.
template <typename F>
KV_FUNC Pair pair_at(uint x, int i, KV_SHARED(uint) book) {
  if (F::book) {
    if (F::book_pairs) {  // the index of the pair, times the copies
      const int first = i * F::bits, up = lowest_exponent(F::book_copies), code = (1 << F::bits) - 1;
      return pair_from_bits(book[(moved(x, first - up) & uint(code << up)) |
                                 (moved(x, 16 + first - F::bits - up) & uint(code << (F::bits + up)))]);
    }
    const uint codes = (x >> (i * F::bits)) & F::mask;
    return pair_from_bits(book[codes & 0xffffu] | (book[codes >> 16] << 16));
  }
  if (F::dense) return pair_from_bits(x);
  if (F::minifloat) return pair_fma(pair_from_bits(minifloat_fields<F>(x, i)), float(1 << (15 - F::exponent_bias)), 0.0f);
  // The code's bits below the exponent of 1024 make 1024 + code * 2^place; one exact fma takes both off again.
  const int place = i * F::bits % 8 + F::bits <= 10 ? i * F::bits % 8 : 0;
  const uint magic = 0x64006400u ^ (F::sign << place);
  const uint field = and_xor(x >> (i * F::bits - place), F::mask << place, magic);
  const float unit = 1.0f / float(1 << place);
  return pair_fma(pair_from_bits(field), unit, -1024.0f * unit - float(F::center));
}

template <typename F>
KV_FUNC void floats_at(uint x, int i, KV_SHARED(uint) book, KV_THREAD float& low, KV_THREAD float& high) {
  if (F::bfloat) {
    low = bits_float(x << 16);
    high = bits_float(x & 0xffff0000u);
    return;
  }
  const Pair pair = pair_at<F>(x, i, book);
  low = pair_low(pair);
  high = pair_high(pair);
}

// The number that a stored scale stands for: item `at` of a word of them. The power of two below float32's normal ones
// counts as zero; 8-bit floats are positive here.
template <int KIND, typename S>
struct ScaleValue {
  static KV_FUNC float of(uint word, int at) {
    return Convert<S>::word(sizeof(S) == 2 ? (word >> (16 * at)) & 0xffffu : word);
  }
};
template <typename S>
struct ScaleValue<SCALES_E8M0, S> {
  static KV_FUNC float of(uint word, int at) {
    return bits_float((at < 3 ? word << (23 - 8 * at) : word >> 1) & 0x7f800000u);
  }
};
template <typename S>
struct ScaleValue<SCALES_E4M3, S> {
  static KV_FUNC float of(uint word, int at) {  // two bytes at a time become float16, off by a power of two
    const uint halves = ((at & 1) ? word >> 1 : word << 7) & 0x3f803f80u;
    return Convert<half_t>::word(at < 2 ? halves & 0xffffu : halves >> 16) * 256.0f;
  }
};

// Scales (or biases) of one token, as loaded.
template <typename F>
struct Scales {
  KV_CONST int bytes = int(sizeof(typename F::Scale));
  KV_CONST int of_word = 4 / bytes;
  KV_CONST bool words = F::header == 0 && F::groups % of_word == 0;
  KV_CONST int count = words ? F::groups / of_word : F::groups;
  uint w[count];

  KV_FUNC float at(int group) const {
    typedef ScaleValue<F::scale_kind, typename F::Scale> Value;
    return words ? Value::of(w[group / of_word], group % of_word) : Value::of(w[group], 0);
  }
};

// `field` 0 loads scales, 1 biases.
template <typename F>
KV_FUNC void load_scales(KV_THREAD const Rows<F>& rows, int token, int field, KV_THREAD Scales<F>& out) {
  if (F::header > 0) {
    KV_UNROLL for (int g = 0; g < F::groups; ++g)
      out.w[g] = load_16(rows.codes + (token * F::row_bytes + g * (F::row_bytes / F::groups) + 2 * field));
    return;
  }
  KV_DEVICE(const uchar) row = bytes_of((field ? rows.biases : rows.scales) + token * F::groups);
  if (Scales<F>::words) {
    Words<Scales<F>::count> words;
    load_words<Scales<F>::count>(row, words);
    KV_UNROLL for (int i = 0; i < Scales<F>::count; ++i) out.w[i] = words.w[i];
  } else {
    KV_UNROLL for (int g = 0; g < F::groups; ++g)
      out.w[g] = Scales<F>::bytes == 1 ? load_8(row + g) : load_16(row + 2 * g);
  }
}

}  // namespace kv
